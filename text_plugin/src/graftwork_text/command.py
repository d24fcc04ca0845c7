"""`graft tokenize`: write a token cache of texts; `graft generate`: go on where a text ends."""

from __future__ import annotations

import json
from pathlib import Path

import click

from graftwork_text.language_task import TEMPERATURE, TOP_P

__all__ = ["generate", "tokenize"]


@click.command("tokenize")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--text-col", default="", help="Column of the texts in a table; by default that of the longest texts.")
@click.option("--min-freq", default=3, show_default=True, help="Words rarer than this are unknown.")
@click.option("--max-vocab", default=60_000, show_default=True, help="Words to keep at most.")
@click.option("--encoding", default="utf-8", show_default=True, help="Encoding of text files and CSVs.")
@click.option("--errors", default="strict", show_default=True, help="Bytes that are no text: strict or replace.")
def tokenize(source: Path, out: Path, text_col: str, min_freq: int, max_vocab: int, encoding: str, errors: str) -> None:
    """Cut the texts of SOURCE into words and write their ids to the folder OUT.

    SOURCE is a table, a folder of text files, or a text file of any size, each line a text.
    """
    from graftwork_text.cache import lines_of, tokenize_stream
    from graftwork_text.reading import read_texts

    if source.is_file() and source.name.lower().endswith((".txt", ".text", ".txt.gz")):
        texts = lines_of(source, encoding=encoding, errors=errors)
    else:
        found = read_texts(source, text_col=text_col or None, labelled=False, encoding=encoding, errors=errors)
        for line in (*found.notes, *found.warnings):
            click.echo(line)
        texts = iter(found.texts)
    cache = tokenize_stream(texts, out, min_freq=min_freq, max_vocab=max_vocab)
    click.echo(f"{len(cache.texts)} texts, {len(cache.texts.ids)} tokens, {len(cache.vocab)} in the vocabulary: {out}")


@click.command("generate")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("prompts", nargs=-1)
@click.option("--max-new-tokens", default=50, show_default=True, help="Tokens to write at most.")
@click.option(
    "--temperature", type=float, help=f"How freely to write; 0 takes the likeliest.  [default: {TEMPERATURE}]"
)
@click.option("--top-k", type=int, help="Draw from so many tokens only.")
@click.option("--top-p", type=float, help=f"Draw from the likeliest, of this share together.  [default: {TOP_P}]")
@click.option("--beam", default=1, show_default=True, help="More than one searches for the likeliest text.")
@click.option("--seed", default=42, show_default=True, help="Decides what is drawn.")
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def generate(
    artifact: Path,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    beam: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Go on where each of PROMPTS ends, by the language model in ARTIFACT; without one, write a text of its own."""
    from graftwork import load_learner
    from graftwork_text.generation import generate as written

    drawn = beam == 1
    texts = written(
        load_learner(artifact, device=device),
        prompts or ("",),
        max_new_tokens=max_new_tokens,
        temperature=(TEMPERATURE if drawn else 1.0) if temperature is None else temperature,
        top_k=top_k,
        top_p=TOP_P if top_p is None and top_k is None and drawn else top_p,
        beam=beam,
        seed=seed,
    )
    for text in texts:
        click.echo(text, err=as_json)
    if as_json:
        click.echo(json.dumps({"texts": list(texts)}))
