"""Reading the options that a user hands through to one of Slurm's commands, as one text. Pure.

An unknown option passes, for the command knows; a word that is none, nor the value of one, would be
taken for the program to run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class Grammar:
    """What is known of a command's options.

    Args:
        command: Its name.
        runs: What it is to run, in words.
        example: Options as one may well say them.
        short: Short options that concern us, all of which take a value, by their long names.
        alone: Options that take no value, or only one behind `=`: no word belongs to them.
        refused: Options that can't be handed through, with the remedy.
    """

    command: str
    runs: str
    example: str
    short: Mapping[str, str]
    alone: frozenset[str]
    refused: Mapping[str, str]

    def split(self, args: str, where: str) -> list[str]:
        """Split a text as a shell splits; `where` is how the user wrote it.

        Raises:
            UsageError: Its quotes are not closed.
        """
        try:
            return shlex.split(args)
        except ValueError as error:
            raise UsageError(
                f"{where} can't be split as a shell splits: {error}; "
                f"close the quotes or write \\' for a lone one"
            ) from error

    def collect(self, tokens: Sequence[str], where: str) -> dict[str, str]:
        """Give the value of each option by its long name; the last of two equal ones counts.

        Raises:
            UsageError: One can't be handed through, or a word is no option.
        """
        values: dict[str, str] = {}
        takes_word = False
        for token, following in zip(tokens, [*tokens, ""][1:], strict=True):
            is_option = token.startswith("-") and token not in ("-", "--")
            if not (is_option or takes_word):
                raise UsageError(
                    f"{where} holds {token!r}, which is no option of {self.command}, nor the "
                    f"value of one: {self.command} would run it instead of {self.runs}. args holds "
                    f"options only, such as {self.example!r}"
                )
            if not is_option:
                takes_word = False
                continue
            name, value = self._split_option(token)
            takes_word = value is None and name not in self.alone
            if name in self.refused:
                raise UsageError(f"{where} holds {token!r}: {self.refused[name]}")
            values[name] = following if value is None else value
        return values

    def _split_option(self, token: str) -> tuple[str, str | None]:
        """Give an option's long name and the value in the same word, None where there is none."""
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            return name, value if equals else None
        if token[:2] in self.short:
            return self.short[token[:2]], token[2:].removeprefix("=") or None
        return token, None
