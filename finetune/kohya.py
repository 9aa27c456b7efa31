"""Runs a training script of kohya's sd-scripts with the tokenizer of an export, so that a LoRA
learns from Japanese captions: by itself the script reads them with the English tokenizer, and says
nothing.

    accelerate launch -m finetune.kohya SD_SCRIPTS/sdxl_train_network.py \
        --pretrained_model_name_or_path runs/toyworld/export/base ...

    python -m finetune.kohya SD_SCRIPTS/sdxl_train_network.py ...       # one process

In:  a checkout of sd-scripts and an exported base (a folder or a hub name); all other arguments are
     the script's. Needs what the script needs, and nothing of ours but this file.
Out: what the script writes.
"""

import argparse
import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = "--pretrained_model_name_or_path"
CLIP_TOKENS = 49_408  # what the English tokenizers have


def with_tokenizer(strategy: Any, tokenizer: "PreTrainedTokenizerBase") -> type:
    """sd-scripts' `SdxlTokenizeStrategy` with this tokenizer for both encoders, which pad with EOS
    alike; `strategy` is that class. Chunks, weights and pooling stay its own.
    """

    class JapaneseTokenizeStrategy(strategy):  # type: ignore[misc]
        def __init__(self, max_length: int | None, tokenizer_cache_dir: str | None = None) -> None:
            # the base's own would fetch the English tokenizers
            self.tokenizer1 = self.tokenizer2 = tokenizer
            self.max_length = tokenizer.model_max_length if max_length is None else max_length + 2

    return JapaneseTokenizeStrategy


def main(argv: list[str] | None = None) -> int:
    """Ends as the script ends; with 2 and one line where it cannot be started."""
    parser = argparse.ArgumentParser(
        prog="python -m finetune.kohya",
        description="Runs a script of kohya's sd-scripts with the tokenizer of an export.",
        allow_abbrev=False,
    )
    parser.add_argument("script", type=Path, help="sdxl_train_network.py or another of the scripts")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help=f"the script's own, with {MODEL} EXPORT"
    )
    given = parser.parse_args(argv)
    named = argparse.ArgumentParser(prog=parser.prog, allow_abbrev=False, add_help=False)
    named.add_argument(MODEL, required=True)
    export = named.parse_known_args(given.arguments)[0].pretrained_model_name_or_path
    if Path(export).is_file():
        parser.error(f"{export} is a file; give the exported folder, whose tokenizer is needed")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            export, subfolder="tokenizer", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        parser.error(f"{export}: no tokenizer can be read there ({str(error).splitlines()[0]})")
    if len(tokenizer) == CLIP_TOKENS:
        parser.error(f"{export} has the English tokenizer; start the script itself")
    if not given.script.is_file():
        parser.error(f"{given.script}: there is no such script; give one of a checkout")
    sys.path.insert(0, str(given.script.resolve().parent))
    try:
        strategies = import_module("library.strategy_sdxl")
    except ImportError as error:
        parser.error(f"{given.script}: the checkout cannot be imported ({error})")
    ours = with_tokenizer(strategies.SdxlTokenizeStrategy, tokenizer)
    strategies.SdxlTokenizeStrategy = ours  # type: ignore[attr-defined]
    sys.argv = [str(given.script), *given.arguments]
    runpy.run_path(str(given.script), run_name="__main__")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
