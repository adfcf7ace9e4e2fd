// A CUDA driver that computes nothing: it checks PTX, blocks and parameters as far as text allows, and writes down
// every call.
#pragma once

extern "C"
{
    // Settings: `capability`, `context` (0: none is current), `fail_load` and `fail_launch` (error numbers).
    void fakeCudaSet(char const* name, int value);
    // Returns what was called since the last time, one call a line. Not thread-safe.
    char const* fakeCudaTakeLog();
}
