"""The two models of the benchmark of speculative decoding: a target, and a draft that guesses for it.

Both write the plays, character by character, and both are trained by chapter 7's `train`, once: finished models are
found again in the folder `speculative_pair` of the data folder. The target has six layers of 384 numbers, the draft
has one of 128, a fiftieth of the parameters. A small model is soon as good as it can be, and a large one is not: in
what its training takes here, some 18 minutes of one core (the draft's takes two or three), the target gets ahead of
the draft by a few hundredths of a nat only. A run that was interrupted goes on where it was.

    python benchmarks/speculative_pair.py           # train both, and say what they are
"""

import sys

import torch
from _record import processor

from zerohero.data import CharTokenizer, data_folder, load_shakespeare, random_batch, split
from zerohero.training import train, validation_loss
from zerohero.transformer import CharGPT, CharGPTConfig

SEED, BATCH_TOKENS, WINDOWS = 1337, 2048, 64
SHARED = {"block_size": 256, "dropout": 0.0, "positions": "rotary", "activation": "relu2"}
SIZES = {"target": {"n_layer": 6, "n_head": 6, "n_embd": 384}, "draft": {"n_layer": 1, "n_head": 4, "n_embd": 128}}
TRAINING = {
    "target": {"steps": 440, "lr": 2e-3, "muon_lr": 0.02, "warmup": 40, "least": 0.0},
    "draft": {"steps": 2000, "lr": 4e-3, "muon_lr": 0.02, "warmup": 40, "least": 0.0},
}


def characters():
    """The tokenizer of the plays, and their tokens: those to learn from, and those to be examined on."""
    text = load_shakespeare()
    tokenizer = CharTokenizer(text)
    return tokenizer, *split(torch.tensor(tokenizer.encode(text)), (0.9, 0.1), seed=None)


def trained(name):
    """The model `name`, "target" or "draft", in evaluation mode, and what is to be told about it. Trains it if there
    is none yet."""
    _, learn, examine = characters()
    config = CharGPTConfig(vocab_size=64, **SHARED, **SIZES[name])
    model = CharGPT(config, torch.Generator().manual_seed(SEED))
    # in bfloat16 where the processor has instructions for it; elsewhere that would be many times slower
    precision = torch.bfloat16 if name == "target" and "bf16" in processor() else torch.float32
    folder = data_folder() / "speculative_pair"
    folder.mkdir(parents=True, exist_ok=True)
    options = dict(TRAINING[name])
    steps = options.pop("steps")
    history = train(
        model,
        lambda generator: random_batch(
            learn, config.block_size, BATCH_TOKENS // config.block_size, generator=generator
        ),
        steps,
        validate=lambda model: validation_loss(model, examine, WINDOWS),
        every=max(40, steps // 10),
        seed=SEED,
        precision=precision,
        checkpoint=folder / f"{name}-{str(precision)[6:]}.pt",
        progress=sys.stderr.isatty(),
        **options,
    )
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": history.tokens,
        "seconds": round(history.seconds, 1),
        "validation": round(history.validation[-1][1], 4),
    }
    return model.eval().requires_grad_(False), facts


def pair():
    """Target and draft, and the facts about each."""
    (target, target_facts), (draft, draft_facts) = trained("target"), trained("draft")
    return target, draft, {"target": target_facts, "draft": draft_facts}


if __name__ == "__main__":
    for name in SIZES:
        print(name, trained(name)[1])
