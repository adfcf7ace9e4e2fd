// The one exception of the library. It is caught at the border to TensorRT and becomes a line in TensorRT's log.
#pragma once

#include <stdexcept>

namespace trtdeploy
{

class Error : public std::runtime_error
{
public:
    using std::runtime_error::runtime_error;
};

} // namespace trtdeploy
