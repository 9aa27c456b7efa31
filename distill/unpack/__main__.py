"""A single-file checkpoint (kohya, ComfyUI, web UI) to a diffusers folder. Needs no network.

In:  one `.safetensors`, or a `.ckpt` that holds tensors alone, with UNet, text encoders and VAE of
     an SDXL base or refiner, SD 1.x or SD 2.x. What it is, is told by the names in its header.
Out: a folder that diffusers, and `distill.base` of a recipe, read. The file's SHA-256 stands in its
     `unpacked.json`.

    python -m distill.unpack FILE.safetensors --out FOLDER
    python -m distill.unpack FILE.safetensors --vae FOLDER_OR_FILE --like FOLDER --out FOLDER

A recipe may also name the file itself as `distill.base`; it is then unpacked once, beside the hub's
cache.
"""

from pathlib import Path

from configs import command
from configs.errors import DataError
from configs.files import whole_folder
from configs.references import ModelName, is_single_file

DESCRIPTION = "Writes a diffusers folder from a single-file checkpoint, without a network."


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.Parser("distill.unpack", DESCRIPTION)
        parser.add_argument("file", type=Path, help="a .safetensors, or a .ckpt of tensors alone")
        parser.add_argument(
            "--out",
            type=command.output_folder,
            required=True,
            metavar="FOLDER",
            help="to be made; it appears whole or not at all",
        )
        parser.add_argument(
            "--like",
            type=ModelName,
            metavar="FOLDER",
            help="a diffusers folder that gives configs, tokenizers and scheduler instead of the "
            "published ones (toyworld:NAME too)",
        )
        parser.add_argument(
            "--vae",
            type=ModelName,
            metavar="FOLDER_OR_FILE",
            help="this autoencoder, where the file holds none or another is wanted",
        )
        arguments = parser.parse_args(argv)
        from distill.unpack.writing import write

        like = Path(arguments.like.path) if arguments.like else None
        vae = arguments.vae
        if vae is not None:
            vae = Path(vae if is_single_file(vae) else vae.path)
        if like is not None and not (like / "model_index.json").is_file():
            raise DataError(f"{like}: no diffusers folder is there; give another as --like")
        with whole_folder(arguments.out) as partial:
            write(arguments.file, partial, like, vae)
        print(f"{arguments.out}: written; give it as distill.base, or to diffusers")

    return command.guard("distill.unpack", body)


if __name__ == "__main__":
    raise SystemExit(main())
