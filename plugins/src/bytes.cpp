#include "trtdeploy/bytes.h"

#include "trtdeploy/error.h"

namespace trtdeploy
{

namespace
{

template <typename Unsigned>
Unsigned decode(std::string_view bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(Unsigned); ++i)
    {
        value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
    }
    return static_cast<Unsigned>(value);
}

template <typename Unsigned>
void encode(std::string& bytes, Unsigned value)
{
    for (size_t i = 0; i < sizeof(Unsigned); ++i)
    {
        bytes.push_back(static_cast<char>((uint64_t{value} >> (8 * i)) & 0xFFU));
    }
}

} // namespace

uint64_t checksum(std::string_view bytes)
{
    uint64_t hash = 0xCBF29CE484222325U;
    for (char const c : bytes)
    {
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
    }
    return hash;
}

std::string_view ByteReader::take(size_t count)
{
    if (count > mBytes.size())
    {
        throw Error("The data ends early: " + std::to_string(count) + " more bytes expected, "
                    + std::to_string(mBytes.size()) + " left.");
    }
    std::string_view const taken = mBytes.substr(0, count);
    mBytes.remove_prefix(count);
    return taken;
}

uint8_t ByteReader::readByte()
{
    return decode<uint8_t>(take(1));
}

uint32_t ByteReader::readUint32()
{
    return decode<uint32_t>(take(4));
}

uint64_t ByteReader::readUint64()
{
    return decode<uint64_t>(take(8));
}

int64_t ByteReader::readInt64()
{
    return static_cast<int64_t>(readUint64());
}

uint32_t ByteReader::readCount(uint32_t limit, char const* what)
{
    uint32_t const count = readUint32();
    if (count > limit)
    {
        throw Error(
            std::string{what} + ": " + std::to_string(count) + ", expected at most " + std::to_string(limit) + ".");
    }
    return count;
}

std::string_view ByteReader::readBytes(uint32_t limit, char const* what)
{
    return take(readCount(limit, what));
}

void ByteReader::finish() const
{
    if (!mBytes.empty())
    {
        throw Error("There are " + std::to_string(mBytes.size()) + " bytes behind the end of the data.");
    }
}

void ByteWriter::writeByte(uint8_t value)
{
    encode(mBytes, value);
}

void ByteWriter::writeUint32(uint32_t value)
{
    encode(mBytes, value);
}

void ByteWriter::writeUint64(uint64_t value)
{
    encode(mBytes, value);
}

void ByteWriter::writeInt64(int64_t value)
{
    writeUint64(static_cast<uint64_t>(value));
}

void ByteWriter::writeBytes(std::string_view bytes)
{
    writeUint32(static_cast<uint32_t>(bytes.size()));
    append(bytes);
}

void ByteWriter::append(std::string_view bytes)
{
    mBytes.append(bytes);
}

} // namespace trtdeploy
