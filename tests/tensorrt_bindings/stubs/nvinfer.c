// Stands in for NVIDIA's libnvinfer, which is large and not needed to look at the Python bindings: everything returns nothing.
#include <stdint.h>

void* createInferBuilder_INTERNAL(void* logger, int32_t version) { (void)logger; (void)version; return 0; }
void* createInferRefitter_INTERNAL(void* engine, void* logger, int32_t version) { (void)engine; (void)logger; (void)version; return 0; }
void* createInferRuntime_INTERNAL(void* logger, int32_t version) { (void)logger; (void)version; return 0; }
void* getBuilderPluginRegistry(int32_t capability) { (void)capability; return 0; }
void* getPluginRegistry(void) { return 0; }
int32_t getInferLibVersion(void) { return 0; }
void* getLogger(void) { return 0; }
