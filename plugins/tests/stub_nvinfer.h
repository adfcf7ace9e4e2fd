// A library with the name of TensorRT's: a plugin registry and a log, nothing else. `tensorrt_probe` plays the builder
// and the engine.
#pragma once

// Returns what was logged since the last time, one message a line.
extern "C" char const* stubTakeLog();
