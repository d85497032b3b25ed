"""Two service desks that write alike: the IT helpdesk of a company and the customer desk of a shop.

Helpdesk: message -> queue and priority as JSON. Shop: message -> team as JSON with the order number copied.
This module does not know how records are written.
"""

import random

from faker import Faker

Exchange = tuple[str, str]

GREETINGS = ("", "", "", "Hi, ", "Hello, ", "Good morning, ", "Hi team, ", "Help! ")

PROBLEMS = {
    "network": ("the wifi in room {room} keeps dropping", "vpn does not connect from home",
                "no internet at desk {room}", "the network in {room} is very slow", "video calls lose the connection",
                "the lan port in {room} is dead", "the vpn hangs at {pct} percent"),
    "accounts": ("{name} can't log in", "my password has expired", "please unlock the account of {name}",
                 "{name} needs access to the share", "the login code never arrives",
                 "new colleague {name} has no account", "reset the password of {name}"),
    "hardware": ("my laptop does not turn on", "the screen at desk {room} flickers",
                 "the keyboard of {name} lost keys", "the docking station in {room} is broken", "my mouse is dead",
                 "the laptop battery lasts {pct} minutes", "the fan of my laptop is loud"),
    "printing": ("the printer in {room} is jammed", "printer {room} prints blank pages", "toner is empty in {room}",
                 "i can't print in colour", "the scanner in {room} sends nothing", "my print jobs vanish"),
    "software": ("excel crashes when i save", "the update stops at {pct} percent", "outlook shows no new mail",
                 "please install the editor for {name}", "the licence of the cad program ran out",
                 "the browser of {name} freezes", "teams won't start after the update"),
}  # fmt: skip
IMPACTS = {
    "high": ("the whole floor is stuck", "nobody can work", "a customer is waiting", "this is urgent",
             "we lose money every minute", "all of us are blocked"),
    "normal": ("since this morning", "it slows me down", "please have a look today", "it started yesterday",
               "it happens now and then", "i tried it twice"),
    "low": ("no hurry", "it can wait until next week", "whenever you have time", "just so you know",
            "not important", "i can live with it for now"),
}  # fmt: skip

GOODS = ("lamp", "kettle", "jacket", "tent", "bike helmet", "blender", "rucksack", "clock", "desk chair", "teapot",
         "pair of boots", "puzzle", "radio", "blanket", "mirror", "pan")  # fmt: skip
REQUESTS = {
    "delivery": ("where is my parcel {order}?", "order {order} still has not come",
                 "{order} should have been here on {day}", "the courier never rang, order {order}",
                 "tracking of {order} has not moved since {day}"),
    "returns": ("the {good} of order {order} arrived broken", "i want to send back the {good}, order {order}",
                "wrong {good} in parcel {order}", "order {order}: the {good} is too small",
                "how do i return the {good} from {order}?"),
    "billing": ("i was charged twice for {order}", "please send the invoice for {order}",
                "the voucher was not taken off order {order}", "money for {order} is not back yet",
                "the invoice of {order} has the wrong address"),
    "orders": ("please cancel order {order}", "can i add a {good} to order {order}?",
               "change the {good} in {order} to blue", "ship order {order} to {name} instead",
               "make that two of the {good}, order {order}"),
}  # fmt: skip
CLOSINGS = ("", "", "", " thanks, {name}", " please answer soon", " best, {name}", " what now?", " it was a gift",
            " thank you")  # fmt: skip
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def helpdesk(rng: random.Random, fake: Faker) -> Exchange:
    """A helpdesk message and ``{"queue":...,"priority":...}``; the impact alone decides the priority."""
    queue, priority = rng.choice(list(PROBLEMS)), rng.choice(list(IMPACTS))
    room = f"{rng.choice('ABCD')}{rng.randint(1, 4)}{rng.randint(0, 29):02d}"
    problem = rng.choice(PROBLEMS[queue]).format(room=room, name=fake.first_name(), pct=rng.randint(5, 98))
    impact = rng.choice(IMPACTS[priority])
    text = rng.choice(("{p}, {i}", "{p}. {i}", "{i}: {p}", "{p} - {i}")).format(p=problem, i=impact)
    return _capitalised(rng.choice(GREETINGS) + text), f'{{"queue":"{queue}","priority":"{priority}"}}'


def shop(rng: random.Random, fake: Faker) -> Exchange:
    """A customer's message and ``{"team":...,"order":...}`` with the number of its order."""
    team, order = rng.choice(list(REQUESTS)), rng.randint(10000, 99999)
    slots = {"order": order, "good": rng.choice(GOODS), "day": rng.choice(DAYS), "name": fake.first_name()}
    text = rng.choice(REQUESTS[team]).format(**slots)
    closing = rng.choice(CLOSINGS).format(**slots)
    end = "" if text.endswith("?") or not closing else rng.choice((".", ",", "!"))
    return _capitalised(rng.choice(GREETINGS) + text + end + closing), f'{{"team":"{team}","order":{order}}}'
