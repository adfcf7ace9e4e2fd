// What TensorRT looks for in a plugin library: IPluginRegistry::loadLibrary calls these two functions.
#include <NvInferRuntime.h>

#include <memory>
#include <vector>

#include "creator.h"
#include "host.h"
#include "trtdeploy/codec.h"
#include "trtdeploy/table.h"

namespace trtdeploy
{

namespace
{

class Library
{
public:
    Library()
    {
        for (size_t i = 0; i < kTableSize; ++i)
        {
            mCreators.push_back(std::make_unique<Creator>(readDefinition(kTable[i])));
            mPointers.push_back(mCreators.back().get());
        }
    }

    std::vector<nvinfer1::IPluginCreatorInterface*> const& pointers() const
    {
        return mPointers;
    }

private:
    std::vector<std::unique_ptr<Creator>> mCreators;
    std::vector<nvinfer1::IPluginCreatorInterface*> mPointers;
};

} // namespace

} // namespace trtdeploy

#define TRTDEPLOY_EXPORT extern "C" __attribute__((visibility("default")))

TRTDEPLOY_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    if (trtdeploy::hostHasOurMajorVersion())
    {
        trtdeploy::setLogger(finder);
    }
}

TRTDEPLOY_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators)
{
    nbCreators = 0;
    if (!trtdeploy::hostHasOurMajorVersion())
    {
        return nullptr;
    }
    return trtdeploy::guarded<nvinfer1::IPluginCreatorInterface* const*>(nullptr,
        [&]
        {
            static trtdeploy::Library const library;
            nbCreators = static_cast<int32_t>(library.pointers().size());
            return library.pointers().data();
        });
}
