"""What can be said of a cart-pole."""

from __future__ import annotations

from vlmreward.data.captions.concept import Concept, Target

WORDS = {
    "pole": ("pole", "pole", "pole", "stick", "rod", "beam", "bar", "pendulum", "post", "staff", "wooden stick"),
    "cart": ("cart", "cart", "cart", "wagon", "trolley", "base", "black box", "sliding block", "carriage", "platform"),
    "track": ("track", "track", "rail", "line", "rails", "path", "screen", "picture"),
    "keep": ("keep", "hold", "get", "make", "put", "bring", "have"),
    "please": ("", "", "", "please ", "try to ", "I want you to ", "your job is to ", "the goal is to ", "we need to "),
    "want": ("I want", "I would like", "we want", "let us have", "the aim is to have", "the task is to have", "show me"),
    "stay": ("stays", "stands", "remains", "is kept", "is", "is standing", "is held"),
    "upright": (
        "upright", "vertically upright", "straight up", "vertical", "standing straight", "pointing up",
        "pointing straight up", "pointing at the sky", "pointing at the ceiling", "standing on end", "upright and balanced",
        "perfectly vertical", "balanced upright", "standing tall", "up in the air", "in the upright position",
        "at twelve o'clock", "right side up", "pointed upwards", "standing upright",
    ),
    "hanging": (
        "hanging straight down", "hanging down", "pointing down", "pointing straight down", "dangling below",
        "hanging below the {cart}", "upside down", "dangling straight down", "at the bottom", "pointing at the floor",
        "pointing at the ground", "hanging limp", "fully lowered", "at six o'clock", "facing downwards", "hanging at rest",
        "pointing downwards", "dropped all the way down",
    ),
    "left_end": (
        "at the left end of the {track}", "at the far left", "at the left edge", "all the way to the left",
        "on the left side", "as far left as possible", "at the leftmost position", "in the left corner",
        "against the left stop", "at the left border of the {track}", "pushed fully to the left",
    ),
    "right_end": (
        "at the right end of the {track}", "at the far right", "at the right edge", "all the way to the right",
        "on the right side", "as far right as possible", "at the rightmost position", "in the right corner",
        "against the right stop", "at the right border of the {track}", "pushed fully to the right",
    ),
    "middle": (
        "in the middle of the {track}", "in the centre", "in the center of the {track}", "at the midpoint",
        "halfway along the {track}", "centred on the {track}", "in the middle", "at the center",
    ),
    "half_left": ("a bit left of the centre", "slightly left of the middle", "somewhat to the left of the center"),
    "half_right": ("a bit right of the centre", "slightly right of the middle", "somewhat to the right of the center"),
    "slight_left": (
        "leaning slightly left", "leaning slightly to the left", "tilted a little to the left", "tipped a bit left",
        "nearly upright but leaning left", "almost vertical with a small tilt to the left",
    ),
    "slight_right": (
        "leaning slightly right", "leaning slightly to the right", "tilted a little to the right", "tipped a bit right",
        "nearly upright but leaning right", "almost vertical with a small tilt to the right",
    ),
    "lean_left": (
        "leaning left", "leaning to the left", "tilted to the left", "slanted left", "tilting left at an angle",
        "falling to the left", "inclined to the left", "tipped over to the left", "diagonal to the upper left",
        "at forty five degrees to the left", "leaning left at 45 degrees", "pointing up and to the left",
        "at half past ten",
    ),
    "lean_right": (
        "leaning right", "leaning to the right", "tilted to the right", "slanted right", "tilting right at an angle",
        "falling to the right", "inclined to the right", "tipped over to the right", "diagonal to the upper right",
        "at forty five degrees to the right", "leaning right at 45 degrees", "pointing up and to the right",
        "at half past one",
    ),
    "flat_left": (
        "horizontal on the left", "lying flat to the left", "pointing left", "sideways to the left",
        "pointing straight to the left", "level with the {cart} on its left", "at nine o'clock",
    ),
    "flat_right": (
        "horizontal on the right", "lying flat to the right", "pointing right", "sideways to the right",
        "pointing straight to the right", "level with the {cart} on its right", "at three o'clock",
    ),
    "flat": (
        "horizontal", "lying flat", "lying sideways", "level with the ground", "parallel to the {track}",
        "parallel to the ground", "perfectly level", "flat like a table", "lying horizontally", "at a right angle to upright",
    ),
    "low_left": (
        "hanging down to the left", "pointing down and to the left", "diagonal to the lower left",
        "swinging below to the left", "dangling to the left",
    ),
    "low_right": (
        "hanging down to the right", "pointing down and to the right", "diagonal to the lower right",
        "swinging below to the right", "dangling to the right",
    ),
    "neutral": ("pole and cart", "a pole on a cart", "a {pole} and a {cart}", "a {cart} with a {pole}",
                "a cart and pole", "the cart pole system", "an inverted pendulum on a cart",
                "a {cart} on a {track} with a {pole} attached to it", "a picture of a {pole} hinged to a {cart}"),
}  # fmt: skip

_POLE = (
    "{{pole}} {w} on top of the {{cart}}", "{{pole}} {w}", "the {{pole}} {{stay}} {w}", "a {{pole}} {w}",
    "{{please}}{{keep}} the {{pole}} {w}", "{{keep}} the {{pole}} {w}", "{{want}} the {{pole}} {w}",
    "a {{pole}} that {{stay}} {w}", "the {{pole}} on the {{cart}} {{stay}} {w}", "{w}",
    "a {{cart}} with its {{pole}} {w}", "the {{cart}} carries a {{pole}} {w}", "{{please}}{{keep}} it {w}",
    "make sure the {{pole}} {{stay}} {w}", "the {{pole}} should be {w}",
)  # fmt: skip
_UPRIGHT = (
    "balance the {pole}", "{please}balance the {pole} on the {cart}", "do not let the {pole} fall",
    "{please}stop the {pole} from falling over", "a {pole} balancing on a {cart}", "the {pole} is balanced on the {cart}",
    "swing the {pole} up and balance it", "{please}swing the {pole} up", "raise the {pole} and keep it there",
    "the {pole} balances on top of the {cart}", "lift the {pole} up", "{pole} up", "don't drop the {pole}",
    "let the {pole} stand up on the {cart}", "stand the {pole} up", "the {pole} should not tip over",
)  # fmt: skip
_HANGING = (
    "let the {pole} hang", "{please}let the {pole} hang down", "the {pole} hangs straight down below the {cart}",
    "the {pole} dangles under the {cart}", "{pole} down", "drop the {pole}", "lower the {pole} all the way",
    "the {pole} is under the {cart}", "{please}let the {pole} drop to the bottom", "leave the {pole} hanging below the {cart}",
)  # fmt: skip
_CART = (
    "{{cart}} {w}", "the {{cart}} {{stay}} {w}", "a {{cart}} {w}", "{{please}}{{keep}} the {{cart}} {w}",
    "move the {{cart}} so that it is {w}", "{{please}}park the {{cart}} {w}", "{{want}} the {{cart}} {w}",
    "the {{cart}} should be {w}", "the {{cart}} with the {{pole}} {{stay}} {w}", "leave the {{cart}} {w}",
)  # fmt: skip
_LEFT = (
    "push the {cart} to the left end", "{please}drive the {cart} to the left", "slide the {cart} left until it stops",
    "{please}move the {cart} to the left", "send the {cart} to the left edge", "roll the {cart} all the way left",
    "go left with the {cart}", "shove the {cart} to the left side", "take the {cart} to the far left",
)  # fmt: skip
_RIGHT = tuple(t.replace("left", "right") for t in _LEFT)


def _slots(templates: tuple[str, ...], slot: str) -> tuple[str, ...]:
    return tuple(t.format(w="{" + slot + "}") for t in templates)


def _angle(value: float, tolerance: float = 4.0) -> Target:
    return Target("angle_deg", value, 180.0, tolerance, period=360.0)


def _position(value: float, tolerance: float = 0.2) -> Target:
    return Target("x_m", value, 2.4 + abs(value), tolerance)


_ANGLES: dict[str, tuple[Target, tuple[str, ...]]] = {
    "upright": (_angle(0.0), _UPRIGHT),
    "hanging": (_angle(180.0), _HANGING),
    "slight_left": (_angle(-18.0, 6.0), ()),
    "slight_right": (_angle(18.0, 6.0), ()),
    "lean_left": (_angle(-45.0, 12.0), ()),
    "lean_right": (_angle(45.0, 12.0), ()),
    "flat_left": (_angle(-90.0, 8.0), ()),
    "flat_right": (_angle(90.0, 8.0), ()),
    "low_left": (_angle(-135.0, 12.0), ()),
    "low_right": (_angle(135.0, 12.0), ()),
    # "horizontal", either side: 90 and -90 are the same on a circle of 180 degrees
    "flat": (Target("angle_deg", 90.0, 90.0, 8.0, period=180.0), ()),
}
_POSITIONS: dict[str, tuple[Target, tuple[str, ...]]] = {
    "left_end": (_position(-2.4), _LEFT),
    "right_end": (_position(2.4), _RIGHT),
    "middle": (_position(0.0), ()),
    "half_left": (_position(-0.9, 0.4), ()),
    "half_right": (_position(0.9, 0.4), ()),
}
# Never captioned together, so that understanding them together can be measured.
HELD_OUT_COMPOSITIONS = (("lean_left", "right_end"), ("lean_right", "left_end"), ("flat_right", "middle"))


def _concepts() -> tuple[Concept, ...]:
    out = [Concept("cartpole", "anything", (), ("{neutral}",), WORDS)]
    for name, (target, own) in _ANGLES.items():
        out.append(Concept("cartpole", name, (target,), _slots(_POLE, name) + own * 2, WORDS))
    for name, (target, own) in _POSITIONS.items():
        out.append(Concept("cartpole", name, (target,), _slots(_CART, name) + own, WORDS))
    for angle, (angle_target, _) in _ANGLES.items():
        for position, (position_target, _) in _POSITIONS.items():
            a, p = "{" + angle + "}", "{" + position + "}"
            templates = (
                f"{{pole}} {a} with the {{cart}} {p}", f"the {{cart}} {p} and the {{pole}} {a}",
                f"{{please}}{{keep}} the {{pole}} {a} and the {{cart}} {p}", f"the {{pole}} {{stay}} {a}, the {{cart}} {{stay}} {p}",
                f"a {{cart}} {p} with its {{pole}} {a}",
            )  # fmt: skip
            name = f"{angle}+{position}"
            out.append(
                Concept("cartpole", name, (angle_target, position_target), templates, WORDS, parts=(angle, position))
            )
    return tuple(out)


CONCEPTS = _concepts()
HELD_OUT_REGIONS = (
    ("angle_deg", 25.0, 33.0),
    ("angle_deg", -33.0, -25.0),
    ("angle_deg", 108.0, 120.0),
    ("x_m", 1.3, 1.55),
    ("x_m", -0.6, -0.4),
)
