// Makes the plugins of one operation.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

#include "trtdeploy/node.h"

namespace trtdeploy
{

class Creator final : public nvinfer1::IPluginCreatorV3One
{
public:
    explicit Creator(Definition definition);

    nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name, nvinfer1::PluginFieldCollection const* fc,
        nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

private:
    std::shared_ptr<Node const> buildNode(nvinfer1::PluginFieldCollection const& fields) const;
    std::shared_ptr<Node const> engineNode(nvinfer1::PluginFieldCollection const& fields) const;

    Definition mDefinition;
    std::vector<nvinfer1::PluginField> mFieldNames;
    nvinfer1::PluginFieldCollection mFields;
};

} // namespace trtdeploy
