"""Search with the Hugging Face Trainer: a tiny BERT, made up on the spot, learns to compare.

    python examples/transformers_trainer.py
    sbatch -N1 --ntasks-per-node=4 --wrap "exec python examples/transformers_trainer.py"

The task: does a sequence of numbers begin with its largest? Nothing is downloaded.
"""

import argparse

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

import slurm_sweeps as ss
from slurm_sweeps.integrations.transformers import SlurmSweepsCallback

VOCABULARY, LENGTH = 32, 6


def make_examples(count: int, seed: int) -> list[dict]:
    """Make sequences and their labels."""
    generator = torch.Generator().manual_seed(seed)
    sequences = torch.randint(VOCABULARY, (count, LENGTH), generator=generator)
    labels = (sequences.argmax(dim=1) == 0).long()
    return [
        {"input_ids": sequence, "labels": label}
        for sequence, label in zip(sequences, labels, strict=True)
    ]


def train(cfg: dict) -> None:
    """Train one model; the callback reports after each epoch, once its checkpoint is written."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=cfg["width"],
            num_hidden_layers=cfg["layers"],
            num_attention_heads=2,
            intermediate_size=2 * cfg["width"],
            max_position_embeddings=LENGTH,
        )
    )
    arguments = TrainingArguments(
        output_dir=str(ss.checkpoint_dir()),
        num_train_epochs=4,
        learning_rate=cfg["learning_rate"],
        per_device_train_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=make_examples(1024, seed=1),
        eval_dataset=make_examples(256, seed=2),
        callbacks=[SlurmSweepsCallback("eval_loss")],
    )
    resumes = any(ss.checkpoint_dir().glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=resumes or None)


def main() -> None:
    """Run the sweep and print the best trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2, help="tasks a trial, inside Slurm")
    parser.add_argument("--trials", type=int, default=4)
    options = parser.parse_args()
    experiment = ss.Experiment(
        train,
        cfg={
            "width": ss.Choice([16, 32, 64]),
            "layers": ss.Integer(1, 2),
            "learning_rate": ss.LogUniform(1e-5, 1e-2),
        },
        name="transformers",
        asha=ss.ASHA("eval_loss", "min", reduction_factor=2, max_t=4),
        slurm_cfg=ss.SlurmCfg(ntasks=options.tasks),
        restore="auto",
        seed=1,
    )
    print(experiment.run(n_trials=options.trials).best_trial())


if __name__ == "__main__":
    main()
