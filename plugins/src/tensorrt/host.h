// The TensorRT that loaded this library: its log, and whether it is the one that the library was built for.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <utility>

namespace trtdeploy
{

// TensorRT's classes keep their layout within a major version only.
bool hostHasOurMajorVersion() noexcept;

void setLogger(nvinfer1::ILoggerFinder* finder) noexcept;

// Writes to TensorRT's log, or to the standard error stream where TensorRT has not handed over one.
void log(nvinfer1::ILogger::Severity severity, char const* message) noexcept;

// Calls a function; an exception becomes an error in the log and `failure`, because none may cross into TensorRT.
template <typename Result, typename Function>
Result guarded(Result failure, Function&& function) noexcept
{
    try
    {
        return std::forward<Function>(function)();
    }
    catch (std::exception const& error)
    {
        log(nvinfer1::ILogger::Severity::kERROR, error.what());
    }
    catch (...)
    {
        log(nvinfer1::ILogger::Severity::kERROR, "An unknown exception was thrown.");
    }
    return failure;
}

} // namespace trtdeploy
