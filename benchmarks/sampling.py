"""Sampling speed: our Inspect provider against Inspect's own ``hf`` provider, same model, prompts, settings and CPU.

    python benchmarks/sampling.py --rounds 3

Both answer the same short prompts several times through Inspect's model interface, all requests at once, as in an eval.
The hf provider gets the batch size given by ``--batch``; ours chooses its own. They take turns; medians of one run.
Prints one tab-separated line per round, then the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import anyio
from inspect_ai.model import GenerateConfig, Model, get_model

from aftertune.data import shipped_contrasts
from aftertune.inspect_bridge import inspect_model
from aftertune.model import embedded_folder, load


async def answer(model: Model, prompts: list[str], samples: int, config: GenerateConfig) -> tuple[float, int]:
    """Seconds and tokens for all answers."""
    tokens: list[int] = []

    async def one(prompt: str) -> None:
        output = await model.generate(prompt, config=config)
        tokens.append(output.usage.output_tokens if output.usage else 0)

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for prompt in prompts:
            for _ in range(samples):
                group.start_soon(one, prompt)
    return time.perf_counter() - start, sum(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="of the hf provider")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    prompts = [contrast.prompt for contrast in shipped_contrasts()][: arguments.prompts]
    folder = str(embedded_folder())
    config = GenerateConfig(temperature=1.0, max_tokens=arguments.max_tokens, seed=0)
    wide = config.merge(GenerateConfig(max_connections=arguments.batch))
    contenders = {
        "aftertune": (inspect_model(load(folder)), config),
        "hf": (get_model("hf/local", model_path=folder, device="cpu", memoize=False), wide),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    print("round\tprovider\tseconds\tanswers/s\ttokens reported")
    for number in range(arguments.rounds):
        for name, (model, settings) in contenders.items():
            took, tokens = anyio.run(answer, model, prompts, arguments.samples, settings)
            seconds[name].append(took)
            answers = len(prompts) * arguments.samples
            print(f"{number}\t{name}\t{took:.1f}\t{answers / took:.2f}\t{tokens}", flush=True)
    ours, theirs = (statistics.median(seconds[name]) for name in contenders)
    print(f"\nmedians: {ours:.1f} s against {theirs:.1f} s, {theirs / ours:.2f} times the answers per second")


if __name__ == "__main__":
    main()
