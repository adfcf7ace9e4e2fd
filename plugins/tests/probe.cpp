#include "probe.h"

#include <iostream>
#include <sstream>
#include <stdexcept>

namespace probe
{

int serve(Commands const& commands)
{
    std::string line;
    while (std::getline(std::cin, line))
    {
        Words words = split(line, ' ');
        auto const command = commands.find(words.at(0));
        words.erase(words.begin());
        std::string answer;
        try
        {
            answer = command != commands.end() ? command->second(words) : "there is no such command";
        }
        catch (std::exception const& error)
        {
            answer = std::string{"error "} + error.what();
        }
        for (char& c : answer)
        {
            c = c == '\n' ? ' ' : c;
        }
        std::cout << answer << std::endl;
    }
    return 0;
}

Words split(std::string const& text, char separator)
{
    Words words;
    std::istringstream stream{text};
    for (std::string word; std::getline(stream, word, separator);)
    {
        words.push_back(word);
    }
    return words.empty() ? Words{""} : words;
}

std::vector<int64_t> numbers(std::string const& text, char separator)
{
    std::vector<int64_t> values;
    if (text != "-")
    {
        for (auto const& word : split(text, separator))
        {
            values.push_back(std::stoll(word));
        }
    }
    return values;
}

std::vector<std::vector<int64_t>> lists(std::string const& text, char outer, char inner)
{
    std::vector<std::vector<int64_t>> all;
    if (text != "-")
    {
        for (auto const& list : split(text, outer))
        {
            all.push_back(numbers(list, inner));
        }
    }
    return all;
}

std::string fromHex(std::string const& hex)
{
    std::string bytes;
    for (size_t i = 0; i + 1 < hex.size(); i += 2)
    {
        bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    return bytes;
}

std::string toHex(std::string const& bytes)
{
    constexpr char kDigits[] = "0123456789abcdef";
    std::string hex;
    for (char const c : bytes)
    {
        auto const byte = static_cast<unsigned char>(c);
        hex.push_back(kDigits[byte >> 4]);
        hex.push_back(kDigits[byte & 15]);
    }
    return hex;
}

} // namespace probe
