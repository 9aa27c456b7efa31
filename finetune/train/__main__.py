"""Learns with the diffusion model, from captioned pictures.

    python -m finetune.train configs/toyworld_kamon.yaml
    python -m finetune.train RECIPE --stage pictures
    python -m finetune.train RECIPE --plan --gpus 8
    torchrun --nproc_per_node 8 -m finetune.train RECIPE

In:  `<run>/pictures/`, `<run>/initial_student/`, `<run>/distill/`, the folder of `distill.base`.
Out: `<run>/finetune/<stage>/`: `config.yaml`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`,
     `latest`, `status.json`; `validation/`, pictures of the recipe's `finetune.validation`.
The same command resumes, as `distill.train` does.
"""

from configs import command
from configs.schema.load import load_recipe
from distill.plan.__main__ import add_rates

DESCRIPTION = "Learns with the diffusion model, from captioned pictures; the same command resumes."


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("finetune.train", DESCRIPTION)
        parser.add_argument("--stage", help="this stage alone; without it, all in order")
        parser.add_argument(
            "--plan", action="store_true", help="print what it costs, and do nothing else"
        )
        add_rates(parser)
        arguments = parser.parse_intermixed_args(command.under_a_launcher(argv))
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        if arguments.plan:
            from finetune.train.plan import report

            rates = arguments.gpus, arguments.tflops, arguments.utilisation
            print("\n".join(report(recipe, arguments.stage, *rates)))
            return
        from finetune.train.training import train

        with command.at_work(recipe.run_dir, "finetune.train", writes=None):
            train(recipe, arguments.stage)

    return command.guard("finetune.train", body)


if __name__ == "__main__":
    raise SystemExit(main())
