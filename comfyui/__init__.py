"""A ComfyUI node pack: Japanese text encoders for SDXL, as `distill.export` writes them.

Copy this folder into ComfyUI's `custom_nodes`; README.md beside this file says the rest.
"""

from .nodes import LoadJapaneseCLIP

NODE_CLASS_MAPPINGS = {"LoadJapaneseCLIP": LoadJapaneseCLIP}
NODE_DISPLAY_NAME_MAPPINGS = {"LoadJapaneseCLIP": "Load Japanese CLIP"}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
