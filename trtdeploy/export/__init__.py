"""Export torch models to ONNX with attention and outputs checked against torch.

Needs torch: `pip install 'trtdeploy[export]'`. Nothing is imported here, so that the parts can be used without the
libraries of the others.
"""
