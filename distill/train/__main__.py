"""Distils the English text encoders into Japanese ones.

    python -m distill.train configs/toyworld.yaml
    torchrun --nproc_per_node 2 -m distill.train configs/toyworld.yaml
    deepspeed --num_gpus 8 --module distill.train configs/sdxl_jp.yaml

In:  `<run>/pairs/`, `<run>/initial_student/`, the teacher's folders.
Out: `<run>/distill/`: `config.yaml`, `metrics.jsonl`, `tensorboard/`, `checkpoints/step_000500/`,
     `latest`, `status.json`.
The same command resumes after a kill; SIGTERM, SIGUSR1 and SIGHUP save first and exit with code 75,
SIGINT with 130.
"""

from configs import command
from configs.schema.recipe import Recipe


def stage(recipe: Recipe) -> None:
    from distill.train.training import train

    train(recipe)


def main(argv: list[str] | None = None) -> int:
    return command.run(
        "distill.train",
        "Distils the English text encoders into Japanese ones; the same command resumes.",
        stage,
        command.under_a_launcher(argv),
    )


if __name__ == "__main__":
    raise SystemExit(main())
