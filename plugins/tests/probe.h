// What the probes share: one question a line on standard input, one line of answer; `error ...` where something was
// thrown.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace probe
{

using Words = std::vector<std::string>;
using Commands = std::map<std::string, std::function<std::string(Words const&)>>;

// Answers questions until the input ends.
int serve(Commands const& commands);

Words split(std::string const& text, char separator);
std::vector<int64_t> numbers(std::string const& text, char separator); // `-` is none
std::vector<std::vector<int64_t>> lists(std::string const& text, char outer, char inner);
std::string fromHex(std::string const& hex);
std::string toHex(std::string const& bytes);

} // namespace probe
