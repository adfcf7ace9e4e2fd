// Reading and writing of the definitions in the library and of the state in an engine: little-endian, every read is
// checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace trtdeploy
{

// FNV-1a. It finds damage, not forgery: whoever can change an engine can change this too.
uint64_t checksum(std::string_view bytes);

// Reads from memory that it does not own. Every read throws Error where it would pass the end.
class ByteReader
{
public:
    explicit ByteReader(std::string_view bytes)
        : mBytes{bytes}
    {
    }

    uint8_t readByte();
    uint32_t readUint32();
    uint64_t readUint64();
    int64_t readInt64();
    // A number of at most `limit`; `what` is for the message.
    uint32_t readCount(uint32_t limit, char const* what);
    // A length and that many bytes, at most `limit`; valid while the memory is.
    std::string_view readBytes(uint32_t limit, char const* what);
    // Throws Error if bytes are left.
    void finish() const;

private:
    std::string_view take(size_t count);

    std::string_view mBytes;
};

class ByteWriter
{
public:
    void writeByte(uint8_t value);
    void writeUint32(uint32_t value);
    void writeUint64(uint64_t value);
    void writeInt64(int64_t value);
    void writeBytes(std::string_view bytes); // with their length before them
    void append(std::string_view bytes);     // as they are

    std::string const& bytes() const
    {
        return mBytes;
    }

private:
    std::string mBytes;
};

} // namespace trtdeploy
