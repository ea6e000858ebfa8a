"""What can be said of a humanoid robot's pose.

The fact ``to_<task>`` is the environment's own graded distance, in [0, 1], between a state and a pose.
"""

from __future__ import annotations

from vlmreward.data.captions.concept import Concept, Target

WORDS = {
    "robot": ("humanoid robot", "humanoid robot", "humanoid", "robot", "android", "figure", "person", "man", "body", "mannequin", "character"),
    "please": ("", "", "", "please ", "try to ", "I want you to ", "your job is to ", "the goal is to ", "we need to "),
    "make": ("make", "get", "have", "let", "see"),
    "want": ("I want", "I would like", "we want", "show me", "the goal is", "the task is"),
    "neutral": ("a humanoid robot", "a {robot}", "a picture of a {robot}", "a {robot} on the floor of a room", "a {robot} under a blue sky"),
    "kneeling": ("kneeling", "kneeling down", "on its knees", "down on both knees", "kneeling on the floor", "kneeling upright", "resting on its knees", "in a kneeling position", "on bended knees", "kneeling as if in prayer"),
    "lotus": ("seated down, meditating in the lotus position", "sitting cross-legged", "in the lotus position", "seated in meditation", "meditating", "sitting with folded legs", "sitting on the floor with its legs crossed", "sitting like a monk", "doing seated yoga", "sitting upright on the ground with crossed legs", "sitting down to meditate"),
    "standing": ("standing up", "standing", "standing upright", "on its feet", "standing tall", "standing straight", "on two legs", "in a standing position", "upright on both feet", "standing still", "up on its feet with its arms down"),
    "arms_raised": ("standing up, with both arms raised", "standing with both arms up", "with its hands in the air", "raising both arms", "with both hands above its head", "reaching for the sky", "lifting its arms overhead", "standing with raised arms", "with arms stretched up", "holding its hands up high", "cheering with both arms in the air"),
    "splits": ("practicing gymnastics, doing the side splits", "doing the splits", "doing a side split", "with its legs spread wide", "with legs stretched out to both sides", "in a straddle split", "spreading its legs apart on the floor", "with legs split sideways", "doing gymnastics with its legs wide apart"),
    "hands_on_hips": ("standing up with hands on hips", "with its hands on its hips", "with hands at its waist", "standing with arms akimbo", "with both hands resting on the hips", "with elbows out and hands on the waist"),
    "arms_crossed": ("standing up, with its arms crossed", "with folded arms", "with arms crossed over the chest", "folding its arms", "standing with crossed arms", "with both arms folded in front of the chest"),
    "one_leg": ("standing up on one leg", "standing on one leg", "balancing on one foot", "with one leg lifted", "with one knee raised", "on a single leg", "lifting one foot off the ground", "standing like a flamingo", "holding one leg up"),
    "lying": ("lying on the floor", "lying down", "lying flat on the ground", "fallen over", "flat on its back", "on the ground", "lying stretched out", "collapsed on the floor", "asleep on the floor", "sprawled on the ground"),
    "crouching": ("crouching", "squatting", "squatting down", "in a deep crouch", "with bent knees", "crouched low", "half way down to the floor"),
}  # fmt: skip

_TEMPLATES = (
    "a humanoid robot {w}", "a {{robot}} {w}", "the {{robot}} is {w}", "{{want}} a {{robot}} {w}", "{{want}} the {{robot}} {w}",
    "{{please}}{{make}} the {{robot}} to be {w}", "{w}", "the {{robot}} should be {w}", "a {{robot}} that is {w}", "a photo of a {{robot}} {w}",
    "the {{robot}} stays {w}", "be {w}", "the {{robot}} {w}",
)  # fmt: skip
_OWN: dict[str, tuple[str, ...]] = {
    "kneeling": ("kneel", "{please}kneel down", "make the {robot} kneel", "the {robot} kneels on the floor", "get down on your knees", "drop to your knees"),
    "lotus": ("sit down and meditate", "{please}sit cross-legged", "make the {robot} sit down", "the {robot} sits on the floor", "cross your legs and sit", "{please}sit in the lotus position"),
    "standing": ("stand up", "{please}stand up straight", "make the {robot} stand", "the {robot} stands on its feet", "get up and stand", "stay on your feet", "rise to your feet"),
    "arms_raised": ("raise both arms", "{please}put your hands up", "make the {robot} raise its arms", "the {robot} lifts both arms", "hands up", "stand and reach up with both hands"),
    "splits": ("do the splits", "{please}do the side splits", "make the {robot} do the splits", "the {robot} spreads its legs wide", "slide your legs apart to the sides"),
    "hands_on_hips": ("put your hands on your hips", "{please}place both hands on the hips", "the {robot} puts its hands on its hips", "hands on the waist"),
    "arms_crossed": ("cross your arms", "{please}fold your arms", "the {robot} crosses its arms", "make the {robot} fold its arms"),
    "one_leg": ("stand on one leg", "{please}balance on one leg", "the {robot} lifts one leg", "make the {robot} stand on one foot", "raise one knee"),
    "lying": ("lie down", "{please}lie down on the floor", "the {robot} lies on the ground", "make the {robot} fall over", "the {robot} has fallen"),
    "crouching": ("crouch", "{please}squat down", "the {robot} crouches low", "bend your knees"),
}  # fmt: skip


def _concepts() -> tuple[Concept, ...]:
    out = [Concept("humanoid", "anything", (), ("{neutral}",), WORDS)]
    for name, own in _OWN.items():
        templates = tuple(t.format(w="{" + name + "}") for t in _TEMPLATES) + own * 2
        out.append(Concept("humanoid", name, (Target(f"to_{name}", 0.0, 1.0, 0.05),), templates, WORDS))
    return tuple(out)


CONCEPTS = _concepts()
HELD_OUT_REGIONS = (("to_standing", 0.3, 0.36), ("to_kneeling", 0.3, 0.36), ("to_lotus", 0.3, 0.36))
