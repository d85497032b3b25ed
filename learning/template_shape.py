"""Chat templates that only place what is said: what is rendered between the contents follows from the roles alone.

Of such a template one rendering for each sequence of roles is enough; all others of it are a join. Whether a template
is of this kind is read from its syntax tree, never tried out: contents may be put out and added to text, and nowhere
tested, filtered, assigned or handed to a call. What is not surely so is not of this kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from secrets import token_hex

from jinja2 import Environment, TemplateSyntaxError, nodes

_MOST_SHAPES = 256
_MESSAGES = "messages"


class Shapes:
    """The renderings of one template; `render` is the template engine's own."""

    def __init__(self, chat_template: str, render: Callable[[list[dict[str, str]]], str]) -> None:
        self._render = render
        self._is_plain = places_only(chat_template)
        self._known: dict[tuple[str, ...], tuple[list[str], list[int]] | None] = {}
        self._around: tuple[str, str] | None = None
        """What stands before and behind one user message by itself, once it was learned."""

    def render(self, messages: Sequence[Mapping[str, str]] | str) -> str | None:
        """The messages, or a user's only one, rendered; None where the engine has to be asked."""
        if not self._is_plain:
            return None
        if isinstance(messages, str):
            if self._around is not None:
                return self._around[0] + messages + self._around[1]
            messages = [{"role": "user", "content": messages}]
        for message in messages:
            if len(message) != 2 or not isinstance(message.get("content"), str) or "role" not in message:
                return None
        roles = tuple([message["role"] for message in messages])
        try:
            shape = self._known[roles]
        except KeyError:
            shape = self._learn(roles)
        except TypeError:  # A role that is no text.
            return None
        if shape is None:
            return None
        between, order = shape
        if len(order) == 1:
            return between[0] + messages[order[0]]["content"] + between[1]
        parts = [between[0]]
        for place, text in zip(order, between[1:], strict=True):
            parts += (messages[place]["content"], text)
        return "".join(parts)

    def _learn(self, roles: tuple[str, ...]) -> tuple[list[str], list[int]] | None:
        """Render the roles once, with contents that are found again; None where that fails."""
        mark = token_hex(16)
        try:
            text = self._render([{"role": role, "content": f"<{mark}:{at}>"} for at, role in enumerate(roles)])
            text.encode()
        except Exception:
            return None  # What is wrong with it, the engine says of the messages themselves.
        pieces = re.split(f"<{mark}:([0-9]+)>", text)
        if len(self._known) >= _MOST_SHAPES:
            self._known.clear()
        shape = self._known[roles] = (pieces[::2], [int(at) for at in pieces[1::2]])
        if roles == ("user",) and len(shape[1]) == 1:
            self._around = shape[0][0], shape[0][1]
        return shape


def places_only(chat_template: str) -> bool:
    """Whether a template does nothing with contents but to put them out."""
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"], trim_blocks=True, lstrip_blocks=True).parse(
            chat_template
        )
    except TemplateSyntaxError:
        return False
    return all(_places(node, frozenset()) for node in tree.body)


def _places(node: nodes.Node, turns: frozenset[str]) -> bool:
    """A statement, within loops over the messages that call them by the names `turns`."""
    match node:
        case nodes.Output():
            return all(isinstance(part, nodes.TemplateData) or _puts_out(part, turns) for part in node.nodes)
        case nodes.If():
            tests = _is_of_roles(node.test, turns) and all(_places(other, turns) for other in node.elif_)
            return tests and all(_places(inner, turns) for inner in (*node.body, *node.else_))
        case nodes.For(target=nodes.Name(name=name), recursive=False):
            if not _is_messages(node.iter) or name in (_MESSAGES, "loop") or node.else_:
                return False
            inside = turns | {name}
            return (node.test is None or _is_of_roles(node.test, inside)) and all(
                _places(inner, inside) for inner in node.body
            )
        case nodes.Continue() | nodes.Break():
            return True
    return False


def _puts_out(node: nodes.Node, turns: frozenset[str]) -> bool:
    """An expression that is text: contents and what follows from the roles, added up."""
    match node:
        case nodes.Add(left=left, right=right):
            return _puts_out(left, turns) and _puts_out(right, turns)
        case nodes.Concat():
            return all(_puts_out(each, turns) for each in node.nodes)
        case nodes.CondExpr(test=test, expr1=first, expr2=second):
            some = second is None or _puts_out(second, turns)
            return _is_of_roles(test, turns) and _puts_out(first, turns) and some
    return _field(node, turns) == "content" or _is_of_roles(node, turns)


def _is_of_roles(node: nodes.Node, turns: frozenset[str]) -> bool:
    """An expression that no content has a part in."""
    if _field(node, turns) == "role":
        return True
    match node:
        case nodes.Name(name=name):
            return name != _MESSAGES and name not in turns and name != "loop"
        case nodes.Getattr(node=nodes.Name(name="loop"), attr="first" | "last" | "index" | "index0" | "length"):
            return bool(turns)
        case nodes.Filter(node=nodes.Name(name="messages"), name="length", args=[], kwargs=[]):
            return True
        case nodes.Const() | nodes.TemplateData():
            return True
        case nodes.Compare() | nodes.Operand() | nodes.Not() | nodes.Neg() | nodes.List() | nodes.Tuple():
            return all(_is_of_roles(child, turns) for child in node.iter_child_nodes())
        case nodes.And() | nodes.Or() | nodes.Add() | nodes.Sub() | nodes.Mod() | nodes.Concat() | nodes.CondExpr():
            return all(_is_of_roles(child, turns) for child in node.iter_child_nodes())
        case nodes.Test(node=nodes.Name() as tested, name="defined" | "none" | "true" | "false", args=[], kwargs=[]):
            return _is_of_roles(tested, turns)
    return False


def _field(node: nodes.Node, turns: frozenset[str]) -> str | None:
    """Which field of a message this is."""
    match node:
        case nodes.Getitem(node=of, arg=nodes.Const(value=str(name))) | nodes.Getattr(node=of, attr=name):
            return name if _is_message(of, turns) else None
    return None


def _is_message(node: nodes.Node, turns: frozenset[str]) -> bool:
    match node:
        case nodes.Name(name=name):
            return name in turns
        case nodes.Getitem(node=nodes.Name(name="messages"), arg=at):
            return isinstance(at, nodes.Const | nodes.Neg) and not list(at.find_all(nodes.Name))
    return False


def _is_messages(node: nodes.Node) -> bool:
    match node:
        case nodes.Name(name="messages"):
            return True
        case nodes.Getitem(node=nodes.Name(name="messages"), arg=nodes.Slice() as cut):
            return not list(cut.find_all((nodes.Name, nodes.Call)))
    return False
