"""What can be said of a table with cubes, targets, a bin and a drawer under a gripper.

The fact ``to_<goal>`` is one minus the environment's own true progress towards a goal, in [0, 1]: 0 exactly where its
predicate holds. There is a goal for every cube and every place it can go to, not only for those of the tasks.
"""

from __future__ import annotations

from vlmreward.data.captions.concept import Concept, Target

CUBES = ("red", "blue", "green", "yellow")
TARGETS = ("green", "white")
WORDS = {
    "cube": ("cube", "cube", "cube", "block", "block", "box", "brick", "piece"),
    "target": ("target", "target", "square", "area", "goal", "mat", "patch", "plate", "marker", "zone"),
    "bin": ("bin", "bin", "bin", "container", "basket", "tray", "box on the right", "grey bin"),
    "drawer": ("drawer", "drawer", "drawer of the cabinet", "brown drawer", "drawer on the left"),
    "robot": ("robot", "robot arm", "arm", "gripper", "hand", "robot's gripper", "manipulator"),
    "please": ("", "", "", "please ", "try to ", "I want you to ", "your job is to ", "the goal is to ", "we need to "),
    "want": ("I want", "I would like", "we want", "show me", "the goal is", "the task is"),
    "neutral": (
        "a robot arm above a table with coloured cubes", "a {robot} and some cubes on a table", "coloured blocks on a wooden table",
        "a table with cubes, a {bin} and a cabinet", "a picture of a {robot} over a table", "a {robot} in front of a table",
    ),
    "push": ("push", "push", "slide", "shove", "move", "nudge"),
    "pushed": ("on", "on top of", "lying on", "sitting on", "resting on", "inside"),
    "lift": ("lift", "lift", "pick up", "raise", "hold up", "grab"),
    "lifted": (
        "lifted", "in the air", "held up in the air", "lifted off the table", "high above the table", "in the gripper",
        "held by the {robot}", "between the fingers of the {robot}", "raised above the table", "picked up",
    ),
    "put": ("put", "put", "place", "drop", "throw", "lay", "set"),
    "inside": ("in", "in", "inside", "at the bottom of", "lying in"),
    "into": ("in", "in", "into", "inside"),
    "onto": ("on", "on", "onto", "on top of"),
    "stack": ("stack", "stack", "put", "place", "set", "balance"),
    "stacked": ("on", "on top of", "stacked on", "standing on", "sitting on", "resting on"),
    "touch": ("touch", "touch", "reach", "reach for", "tap", "go to"),
    "touched": ("touching", "touching", "at", "next to", "reaching for", "right at"),
    "open": ("open", "open", "pull open", "pull out", "slide out"),
    "opened": ("open", "wide open", "pulled out", "fully open", "pulled all the way out", "standing open"),
    "close": ("close", "close", "shut", "push in", "slide shut"),
    "closed": ("closed", "shut", "pushed in", "fully closed", "pushed all the way in"),
}  # fmt: skip

_STATES = ("<it>", "the <it>", "a <it>", "{want} the <it>", "a photo of a <it>", "the <it> now")
_ORDERS = ("<it>", "{please}<it>", "{please}<it>")
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # what is so, what to do; <cube> and <onto> are colours
    "push": (("<cube> {cube} {pushed} the <onto> {target}", "<onto> {target} with the <cube> {cube} on it"),
             ("{push} the <cube> {cube} onto the <onto> {target}", "{push} the <cube> {cube} to the <onto> {target}",
              "get the <cube> {cube} to the <onto> {target}")),
    "lift": (("<cube> {cube} {lifted}", "{robot} holding the <cube> {cube}", "{robot} lifting the <cube> {cube}"),
             ("{lift} the <cube> {cube}", "take the <cube> {cube} off the table", "{lift} the <cube> one")),
    "bin": (("<cube> {cube} {inside} the {bin}", "{bin} with the <cube> {cube} in it"),
            ("{put} the <cube> {cube} {into} the {bin}", "get the <cube> {cube} into the {bin}")),
    "stack": (("<cube> {cube} {stacked} the <onto> {cube}", "tower of the <cube> {cube} on the <onto> {cube}"),
              ("{stack} the <cube> {cube} {onto} the <onto> {cube}", "build a tower with the <cube> {cube} on the <onto> one")),
    "touch": (("{robot} {touched} the <cube> {cube}", "<cube> {cube} touched by the {robot}"),
              ("{touch} the <cube> {cube}", "move the {robot} to the <cube> {cube}", "{touch} the <cube> one")),
    "open": (("{drawer} {opened}", "cabinet with the drawer {opened}"), ("{open} the {drawer}", "pull the {drawer} open")),
    "close": (("{drawer} {closed}", "cabinet with the drawer {closed}"), ("{close} the {drawer}", "push the {drawer} shut")),
}  # fmt: skip


def _goals() -> list[tuple[str, str, str]]:
    """Return kind, cube and place of every goal."""
    goals = [("push", cube, target) for cube in CUBES for target in TARGETS]
    goals += [(kind, cube, "") for kind in ("lift", "bin", "touch") for cube in CUBES]
    goals += [("stack", upper, lower) for upper in CUBES for lower in CUBES if upper != lower]
    return [*goals, ("open", "", ""), ("close", "", "")]


def _concepts() -> tuple[Concept, ...]:
    out = [Concept("tabletop", "anything", (), ("{neutral}",), WORDS)]
    for kind, cube, onto in _goals():
        states, orders = _KINDS[kind]
        templates = tuple(frame.replace("<it>", state) for state in states for frame in _STATES)
        templates += tuple(frame.replace("<it>", order) for order in orders for frame in _ORDERS) * 2
        filled = tuple(template.replace("<cube>", cube).replace("<onto>", onto) for template in templates)
        name = "_".join(part for part in (kind, cube, onto) if part)
        out.append(Concept("tabletop", name, (Target(f"to_{name}", 0.0, 1.0, 0.0),), filled, WORDS))
    return tuple(out)


CONCEPTS = _concepts()
HELD_OUT_REGIONS = (("drawer_open", 0.045, 0.055), ("gripper_x", -0.03, -0.01), ("red_x", 0.03, 0.045))
