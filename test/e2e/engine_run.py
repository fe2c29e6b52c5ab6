"""Ask one prompt twice in an `sgl.Engine`, with empty tiers above the disk: a process of its own.

    python engine_run.py QUESTION.json ANSWER.json

QUESTION holds `engine`, the keyword arguments, `prompt`, token ids, `num_pages`, how many pages the
prompt adds to the store, and `num_tokens` to answer. ANSWER is a list of two objects with
`output_ids`, `cached_tokens` and `from_disk`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import sglang
from sglang_lsm.survey import find_stores, survey

TIMEOUT_S = 60.0


def main(question: Path, answer: Path) -> None:
    """Run the engine; see the module's docstring."""
    asked = json.loads(question.read_text())
    directory = Path(asked["engine"]["kv_storage_path"])
    num_pages = pages_in(directory) + asked["num_pages"]
    engine = sglang.Engine(**asked["engine"])
    try:
        cold = ask(engine, asked)
        wait_for_pages(directory, num_pages)
        engine.flush_cache()
        answer.write_text(json.dumps([cold, ask(engine, asked)]))
    finally:
        engine.shutdown()


def ask(engine: sglang.Engine, asked: dict[str, Any]) -> dict[str, object]:
    """Return what the test looks at of one greedy answer."""
    sampling = {"temperature": 0, "max_new_tokens": asked["num_tokens"], "ignore_eos": True}
    reply = engine.generate(input_ids=asked["prompt"], sampling_params=sampling)
    details = reply["meta_info"].get("cached_tokens_details") or {}
    return {
        "output_ids": reply["output_ids"],
        "cached_tokens": reply["meta_info"]["cached_tokens"],
        "from_disk": details.get("storage") or 0,
    }


def wait_for_pages(directory: Path, num_pages: int) -> None:
    """Wait until the store holds that many pages; they are written behind the answer."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while (found := pages_in(directory)) < num_pages:
        if time.monotonic() > deadline_s:
            sys.exit(f"the disk tier took too few pages. found={found} expected={num_pages}")
        time.sleep(0.1)


def pages_in(directory: Path) -> int:
    """Return how many pages can be found below a tier's directory, whoever put them there."""
    namespaces = [n for store in find_stores(directory) for n in survey(store).namespaces.values()]
    return sum(namespace.num_pages for namespace in namespaces)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
