"""Plain tables: a time, a length, and whatever else is known, each under any of its usual names.

``total_tokens`` is the whole length of a request, text and images together, as a prompt's tokens are usually counted.
Without it the parts ``text_tokens`` and ``image_tokens`` make it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.base import TABLE_OPTIONS, TICKS, Head
from bufferlab.experiments.workloads.readers.columns import OPTION, Fields
from bufferlab.experiments.workloads.readers.names import OUTPUTS, plain_name
from bufferlab.experiments.workloads.readers.tabular import Rows, TableReader, spread
from bufferlab.sim.workload import Option

if TYPE_CHECKING:
    from bufferlab.experiments.workloads.readers.cells import Column

MOST_SQUARES = 2**62
MOST_IMAGES = 10**6
CONTENT = Option(
    default="images", choices=("images", "text"), help="what the tokens are where no column says which part is text"
)
KEPT = Option(default="kept", choices=TICKS.choices, help=TICKS.help)


class PlainTable(TableReader):
    """A table that is of no published format; asked when no other reader knows the file."""

    title: ClassVar[str] = "a table"
    options: ClassVar[Mapping[str, Option]] = {**TABLE_OPTIONS, "content": CONTENT, "ticks": KEPT}

    @classmethod
    def matches(cls, head: Head) -> bool:
        """Any table may be one."""
        return head.container != "folder"

    def check_columns(self, fields: Fields) -> None:
        """Raise UserError for a table without rows that lacks columns, too."""
        self._needed(fields)
        fields.check()

    def rows(self, fields: Fields, options: Mapping[str, Any]) -> Rows:
        """The requests of a table with at least one row."""
        notes: list[str] = []
        time, total, text, image = self._needed(fields)
        if total is not None:
            total, text = _whole_or_part(fields, total, text, image, notes)
        if total is not None:
            total = _without_answer(fields, total, text, image, notes)
        fields.check()
        assert time is not None
        times = fields.read_time(time, options.get("time_unit", "auto"))
        images = fields.find("images")
        counts = None if images is None else fields.whole(images, 0, MOST_IMAGES)
        totals, texts = _lengths(fields, total, text, image)
        if texts is None:
            texts = _assumed_text(totals, counts, options, notes)
        if counts is None and bool((texts < totals).any()):
            notes.append("no column says how many images a request has (images): counted as none")
        more = {} if counts is None else {"images": counts}
        for name, most in (("image_tokens_hint", 10**8), ("image_squares", MOST_SQUARES)):
            column = fields.find(name)
            if column is not None:
                more[name] = fields.whole(column, 0, most)
        for name in ("encode_factor", "prefill_factor"):
            column = fields.find(name)
            if column is not None:
                more[name] = fields.positive(column)
        client = fields.find("client")
        rows = Rows(
            arrival_s=times.seconds,
            total_tokens=totals,
            text_tokens=texts,
            more=more,
            client=None if client is None else client.texts(),
            notes=[*times.notes, *notes],
        )
        spread(rows, options, "kept")
        return rows

    def _needed(self, fields: Fields) -> tuple[Column | None, Column | None, Column | None, Column | None]:
        time = fields.time()
        if time is None:
            fields.lacks("arrival_s (or timestamp_s, timestamp, …)")
        total, text, image = _total(fields), fields.find("text_tokens"), fields.find("image_tokens")
        if total is None and (text is None or image is None):
            there = text if text is not None else image
            other = "image_tokens" if text is not None else "text_tokens"
            fields.lacks(
                "total_tokens (or text_tokens and image_tokens)"
                if there is None
                else f"{other} (beside {there.shown_name}; or total_tokens in place of both)"
            )
        return time, total, text, image


def _total(fields: Fields) -> Column | None:
    """The column of the whole length. Where the usage of a prompt and its answer is added up, the prompt's."""
    own = fields.named("total_tokens", "total_tokens")
    prompts = [] if own is None else [one for one in _other_totals(fields) if one is not own]
    if own is None or not prompts:
        return own if own is not None else fields.find("total_tokens")
    if len(prompts) > 1:
        names = " and ".join(one.shown_name for one in (own, *prompts))
        raise _ask(fields, names, prompts[0])
    prompt = prompts[0]
    sums, _ = own.numbers()
    parts, _ = prompt.numbers()
    answers = [one for one in fields.table.columns if plain_name(one.name) in OUTPUTS]
    if np.array_equal(sums, parts):
        return own
    if len(answers) == 1 and np.array_equal(sums, parts + answers[0].numbers()[0]):
        fields.passed_over(own, f"it is {prompt.name} and {answers[0].name} together")
        return fields.use(prompt, "total_tokens")
    raise _ask(fields, f"{own.shown_name} and {prompt.shown_name}", prompt)


def _ask(fields: Fields, names: str, one: Column) -> UserError:
    return UserError(
        f"workload.file {fields.table.path.name}: {names} may all be total_tokens, and differ; say which with "
        f'{OPTION}.total_tokens = "{one.name}"'
    )


def _other_totals(fields: Fields) -> list[Column]:
    from bufferlab.experiments.workloads.readers.names import ALIASES

    if fields.is_mapped("total_tokens"):
        return []
    return [one for one in fields.free() if plain_name(one.name) in ALIASES["total_tokens"]]


def _whole_or_part(
    fields: Fields, total: Column, text: Column | None, image: Column | None, notes: list[str]
) -> tuple[Column | None, Column | None]:
    """The columns of the whole and of the text; a prompt that is shorter than its own images is the text alone."""
    if (
        image is None
        or text is not None
        or plain_name(total.name) == "total_tokens"
        or fields.is_mapped("total_tokens")
    ):
        return total, text
    wholes, parts = fields.whole(total, 0), fields.whole(image, 0)
    longer = int((parts > wholes).sum())
    if not longer:
        notes.append(
            f"{total.name} taken as the whole length, with {image.name} in it ({OPTION}.text_tokens = "
            f'"{total.name}" if it is the text alone)'
        )
        return total, text
    notes.append(f"{total.name} taken as the text alone, since {image.name} is more in {longer} rows")
    return None, fields.use(total, "text_tokens")


def _without_answer(
    fields: Fields, total: Column, text: Column | None, image: Column | None, notes: list[str]
) -> Column | None:
    """The column of the whole length; None if the parts make it up and it has the answer in it as well."""
    answers = [one for one in fields.free() if plain_name(one.name) in OUTPUTS]
    if text is not None and image is not None:
        wholes = fields.whole(total, 1)
        parts = fields.whole(text, 0) + fields.whole(image, 0)
        more = parts < wholes
        if not more.any():
            return total  # if the parts are more, that is said where the lengths are read
        for answer in answers:
            if np.array_equal(wholes, parts + answer.numbers()[0]):
                fields.passed_over(total, f"it is {text.name}, {image.name} and {answer.name} together")
                return None
        row = int(more.argmax())
        raise UserError(
            f"{total.where(row)}: {text.name} and {image.name} make {parts[row]}, but {total.shown_name} is "
            f"{wholes[row]}; a request is its text and its images, so they must be the same"
        )
    if answers and plain_name(total.name) == "total_tokens" and not fields.is_mapped("total_tokens"):
        names = " and ".join(one.shown_name for one in answers)
        notes.append(
            f"{total.name} taken as the whole prompt, without {names}; if the answer is in it, give the prompt's "
            f"column with {OPTION}.total_tokens"
        )
    return total


def _lengths(
    fields: Fields, total: Column | None, text: Column | None, image: Column | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The whole lengths, and the text in them if it is known."""
    texts = None if text is None else fields.whole(text, 0)
    parts = None if image is None else fields.whole(image, 0)
    if total is None:
        assert texts is not None
        assert parts is not None
        wholes = texts + parts
        empty = wholes < 1
        if empty.any():
            assert text is not None
            assert image is not None
            row = int(empty.argmax())
            raise UserError(
                f"{text.where(row)}: {text.name} and {image.name} are 0, a request must have at least 1 token"
            )
        return wholes, texts
    wholes = fields.whole(total, 1)
    for name, column, cells in (("text", text, texts), ("images", image, parts)):
        if column is None or cells is None:
            continue
        over = cells > wholes
        if over.any():
            row = int(over.argmax())
            raise column.refuse(row, f"at most {total.shown_name}, {wholes[row]}, of which it is the {name}")
    if texts is not None and parts is not None:
        over = texts + parts > wholes
        if over.any():
            assert text is not None
            assert image is not None
            row = int(over.argmax())
            raise UserError(
                f"{total.where(row)}: {text.name} and {image.name} are {texts[row]} and {parts[row]}, they must be at "
                f"most {total.shown_name}, {wholes[row]}, together"
            )
    if texts is None and parts is not None:
        texts = wholes - parts
    return wholes, texts


def _assumed_text(
    totals: np.ndarray, images: np.ndarray | None, options: Mapping[str, Any], notes: list[str]
) -> np.ndarray:
    """The text of requests of which only the whole length is known."""
    content = options.get("content", CONTENT.default)
    if content == "text":
        notes.append("all tokens taken as text, as workload.options.content says")
        return totals.copy()
    known = "" if "content" in options else '; workload.options.content = "text" if they are text'
    if images is not None:
        notes.append(
            f"no column says which part is text: requests without images taken as text, others as images{known}"
        )
        return np.where(images == 0, totals, 0)
    notes.append(f"no column says which part is text: all tokens taken as images'{known}")
    return np.zeros_like(totals)
