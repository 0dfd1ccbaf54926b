#!/usr/bin/env python3
"""Renders the corpus and the snippets with Python's Jinja and writes the expected outputs.

The Rust tests hold this crate to these files byte for byte. The environment is the one that
`transformers` builds for chat templates, because it is built by `transformers` itself:

    pip install transformers==5.23.0 jinja2==3.1.6
    python make_expected.py

`strftime_now` sees the fixed moment NOW, which the Rust tests use too.
"""

import datetime
import json
import pathlib

import jinja2
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2024, 7, 26, 14, 5, 9)


class FrozenDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def outcome(render):
    """The text, or the words of `raise_exception`, or the mere fact that it fails."""
    try:
        return {"text": render()}
    except (jinja2.TemplateSyntaxError, jinja2.UndefinedError, jinja2.exceptions.SecurityError):
        return {"fails": True}
    except jinja2.TemplateError as error:
        if type(error) is not jinja2.TemplateError:
            return {"fails": True}
        return {"raised": str(error)}
    except Exception:
        return {"fails": True}


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=False)
    path.write_text(text + "\n", encoding="utf-8")


def snippets():
    context = json.loads((HERE / "snippet_context.json").read_text(encoding="utf-8"))
    results = []
    for line in (HERE / "snippets.txt").read_text(encoding="utf-8").split("\n"):
        if not line or line.startswith("# "):
            continue
        known_difference = line.startswith("!! ")
        template = line.removeprefix("!! ").replace("⏎", "\n").replace("⇥", "\t")
        compiled = lambda: chat_template_utils._compile_jinja_template(template).render(**context)
        result = {"template": template, **outcome(compiled)}
        if known_difference:
            result["known_difference"] = True
        results.append(result)
    write(HERE / "expected" / "snippets.json", results)
    return len(results)


def render_case(source, case, conversations):
    options = dict(case)
    kwargs = options.pop("kwargs", {})
    special_tokens = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    arguments = {
        "conversations": [conversations[options.pop("conversation")]],
        "chat_template": source,
        "tools": conversations[options.pop("tools")] if "tools" in options else None,
        "documents": conversations[options.pop("documents")] if "documents" in options else None,
        **options,
        **special_tokens,
        **kwargs,
    }
    return chat_template_utils.render_jinja_template(**arguments)[0][0]


def corpus():
    cases = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
    count = 0
    for path in sorted((HERE / "corpus").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        results = {}
        for name, case in cases["cases"].items():
            results[name] = outcome(lambda: render_case(source, case, cases["inputs"]))
        write(HERE / "expected" / f"{path.stem}.json", results)
        count += len(results)
    return count


if __name__ == "__main__":
    chat_template_utils.datetime = FrozenDatetime
    print(f"{snippets()} snippets, {corpus()} corpus cases")
