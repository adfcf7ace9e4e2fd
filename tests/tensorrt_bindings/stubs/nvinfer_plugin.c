// Stands in for NVIDIA's libnvinfer_plugin.
#include <stdbool.h>

bool initLibNvInferPlugins(void* logger, char const* library_namespace) { (void)logger; (void)library_namespace; return true; }
