"""The help pages: groups and options are read from the YAML files, settings from the primary configs."""

from __future__ import annotations

from importlib.resources import files

from vlmreward.cli.groups import PRIMARY, list_groups

OVERVIEW = """\
Say the goal in words, get a trained agent and evaluation videos.

usage: vlmreward COMMAND [key=value ...]

commands:
{commands}

start here:
  vlmreward train env=cartpole goal="pole vertically upright on top of the cart"
  vlmreward evaluate run=runs/<name>
  vlmreward record run=runs/<name>

  vlmreward COMMAND --help    the command's settings and examples
  vlmreward doctor            what this machine can run
"""

INTRO = {
    "train": """\
Train an agent from a text goal.

usage: vlmreward train env=<name> [goal="..."] [key=value ...]

examples:
  vlmreward train env=cartpole
  vlmreward train env=cartpole goal="cart at the left end of the track" seed=1
  vlmreward train env=cartpole agent=dqn agent.learning_rate=0.001 total_timesteps=50000
  vlmreward train env=cartpole encoder.runtime=torch        engine of the encoder (docs/runtimes.md)
  vlmreward train env=gym env.id=Acrobot-v1 goal="a robot arm swung up" baseline="a robot arm" encoder=siglip2
  vlmreward train agent=iql dataset=recordings labels=reward_vlm env=cartpole    from a dataset (docs/offline.md)
  vlmreward train resume=runs/<name>                        go on after an interruption
  vlmreward train env=cartpole --cfg                        print the settings and stop

goal, baseline and all prompts of the reward are taken literally, whatever they contain; give the key several times
for several prompts (goal="pole upright" goal="stick straight up").
agent.<name>=<value> sets any argument of the algorithm's constructor.
""",
    "audit": """\
Tell before any training whether a reward is any good: score frames whose truth is known, or recorded episodes, and
compare.

usage: vlmreward audit env=<name> | frames=<CSV file> | dataset=<folder or file> [goal="..."] [key=value ...]

examples:
  vlmreward audit env=cartpole
  vlmreward audit env=cartpole env.task=left vary.reward.alpha=[0,0.25,0.5,1]      settings side by side
  vlmreward audit env=humanoid vary.env.kwargs.quality=[fast,fine]                 cameras and qualities
  vlmreward audit env=cartpole env.task=upright vary.goal="pole up" vary.goal="the stick stands on end"
  vlmreward audit env=cartpole run=runs/<name>                                     frames of a trained agent among them
  vlmreward audit frames=pictures/labels.csv goal="a red cube in the box"          labelled pictures of your own
  vlmreward audit dataset=recordings goal="lift it" paraphrase="pick it up"        recorded episodes
  vlmreward audit dataset=recordings vary.reward=[clip,critic_progress] reward.path=runs/critic/critic.safetensors

vary.<setting>=[a,b,...] compares all combinations; prompts and paths are repeated instead.
The result is a folder: audit.json, landscapes as PNG, and
audit.html, one page with a sortable table, landscapes and the frames of the highest and lowest rewards (docs/audit.md).
Of recorded episodes it is every metric of progress, beside time, a constant, random numbers and pixels
(docs/progress.md); a setting of reward goes to those of the varied rewards that have it.
""",
    "evaluate": """\
Measure an agent on episodes of its own: true success with a 95 % Wilson interval, environment return, VLM return.

usage: vlmreward evaluate run=<run folder> [key=value ...]

examples:
  vlmreward evaluate run=runs/<name>
  vlmreward evaluate run=runs/<name> episodes=500 seed=1000 env.kwargs.start=upright
  vlmreward evaluate run=runs/<name> goal="cart at the left end of the track"   another goal for the same agent
  vlmreward evaluate env=cartpole env.task=left policy=random                   a trivial policy to compare with
""",
    "record": """\
Record an agent: MP4 and GIF with the goal, the reward curve and the true success drawn on the frames.

usage: vlmreward record run=<run folder> [key=value ...]

examples:
  vlmreward record run=runs/<name>
  vlmreward record run=runs/<name> episodes=4 size=640 out=clips formats=[mp4]
""",
    "collect": """\
Record episodes of an environment as a dataset of the usual formats. What is true of every frame (success, progress)
goes into <out>.truth.npz, which no reader opens: labels can be compared with it.

usage: vlmreward collect env=<name> [policy=[<name>,...]] [format=lerobot] [key=value ...]

examples:
  vlmreward collect env=cartpole policy=[random] episodes=20 out=datasets/cartpole
  vlmreward collect env=cartpole run=runs/<name> policy=[agent,agent@0.3,random] format=robomimic

name@0.3 takes a random action three times in ten; policies take turns, an episode each.

An episode is recorded as successful where its last frame shows success, however shortly; evaluate asks that it lasts.
""",
    "label": """\
Write the reward of every recorded frame into a dataset, in the place where training code looks for it: LeRobot,
robomimic / LIBERO, Minari, or a folder of videos. Pictures are read once ever; videos are not touched.

usage: vlmreward label dataset=<folder or file> [goal="..."] [key=value ...]

examples:
  vlmreward label dataset=<folder>                                       each episode's own recorded task is the goal
  vlmreward label dataset=<folder> goal="the red cube is in the bin"
  vlmreward label dataset=<folder> --dry-run                             what would be written, and nothing else
  vlmreward label dataset=<folder> name=sarm_progress                    LeRobot's progress file for RA-BC
  vlmreward label dataset=<folder> camera=main                          whose pictures, where there are several cameras
  vlmreward label dataset=<folder> undo=true                             take the column away again

Row t gets the reward of frame t + 1; a row without one is marked in <name>_valid. A report card over a sample comes
first: labels that tell nothing are refused, with the figures. Interrupted, the same command goes on.
""",
    "fit-critic": """\
Train a progress critic on recorded episodes: how far along is the task, and is it done?

usage: vlmreward fit-critic dataset=<recorded episodes> [dataset=...] [key=value ...]

examples:
  vlmreward fit-critic dataset=recordings
  vlmreward fit-critic dataset=lift dataset=stack out=runs/critic encoder=siglip2
  vlmreward label dataset=recordings reward=critic_progress reward.path=runs/critic/critic.safetensors
  vlmreward train env=tabletop reward=critic reward.of.path=runs/critic/critic.safetensors

It learns from the order of time alone, in any dataset that vlmreward inspect can read; episodes that are recorded as
failures teach it what is not done. The last figures are those of episodes that were held out (docs/critic.md).
""",
    "fit-reward": """\
Learn a reward from answers about recorded frames: which of two is nearer to the goal, or how well one shows it.

usage: vlmreward fit-reward dataset=<recorded episodes> goal="<in words>" [reward=distilled] [key=value ...]

examples:
  vlmreward fit-reward dataset=recordings goal="the drawer is open" reward.annotator.name=page
  vlmreward fit-reward dataset=recordings goal="the drawer is open" reward.learning.budget=400 out=runs/a
  vlmreward label dataset=recordings goal="the drawer is open" reward=preference reward.path=runs/a/head.safetensors

The head that it fits labels any dataset and trains any agent, for the same goal and encoder (docs/preference.md).
""",
    "view": """\
Write one page that shows recorded episodes with their labels: the film, curves of reward, success and progress with a
cursor that follows it, several goals and models in one plot, and the frames at which the reward jumps.

usage: vlmreward view dataset=<folder or file> [episode=<number>] [key=value ...]

examples:
  vlmreward view dataset=<folder>                                        episode 0, and all labels that are found
  vlmreward view dataset=<folder> episode=[0,2] camera=main
  vlmreward view dataset=<folder> runs=runs/labels/<job>                 all runs of a labelling job
  vlmreward view dataset=<folder> columns=[reward_vlm,next.success]      columns of the dataset beside them

The page needs no other file and no network. Its keys: left and right go one frame back and on (with Shift ten), Space
plays and pauses, Home and End go to the ends; a click on a curve goes to that frame (docs/viewer.md).
""",
    "cache": """\
Show what the embeddings take up that train, audit, evaluate and record have stored with cache=<folder>, and prune them.

usage: vlmreward cache path=<folder> [key=value ...]

examples:
  vlmreward train env=cartpole cache=embeddings             encode each frame once, in this run and all later ones
  vlmreward cache path=embeddings                           a row for each encoder, precision, runtime and dtype
  vlmreward cache path=embeddings older_than=30             remove what was stored more than 30 days ago
  vlmreward cache path=embeddings max_size=5                remove the oldest until 5 GB are left
  vlmreward cache path=embeddings id=mini-3 all=true        remove all of an encoder

What is removed is only encoded again when it is needed. Runs that have a store open go on with what they know, and the
part they write to stays. A store is made of segments of 64 MB, which are removed whole; docs/cache.md says more.
""",
    "inspect": """\
Show what a dataset of recorded episodes holds, and what is wrong with it: before it is labelled, or when it won't load.

usage: vlmreward inspect dataset=<folder or file> [key=value ...]

examples:
  vlmreward inspect dataset=recordings                      a LeRobot or Minari dataset, or a folder of videos
  vlmreward inspect dataset=demo.hdf5                       robomimic, LIBERO, RoboCasa
  vlmreward inspect dataset=recordings most=100             more of its tasks, features and problems

The format is told by what is there; docs/datasets.md says what each holds. A folder of videos or pictures needs an
episodes.jsonl, with a line like {"video": "clips/a.mp4", "task": "open the drawer"} for each episode.

The names of cameras are what camera=<name> means elsewhere, the tasks what is asked for where no goal is given. Every
file is opened and the last pictures of each video are decoded; nothing is written. A problem does not stop labelling:
rows whose frame can't be decoded are labelled invalid, and counted.
""",
    "list": """\
List what can be chosen.

usage: vlmreward list envs | tasks | encoders | rewards | judges | annotators | agents
""",
    "doctor": """\
Check what this machine can run: versions, processor, picture rendering, shared memory, GPU, weights, disk.

usage: vlmreward doctor
""",
    "pretrain-mini": """\
Train the embedded encoder from nothing, on captioned pictures of this project's environments: about an hour on 2
cores. Needs pip install 'vlmreward[pretrain]' and WordNet (apt-get install wordnet-base). What it gives: docs/mini.md.

usage: vlmreward pretrain-mini [key=value ...]

examples:
  vlmreward pretrain-mini out=runs/mini
  vlmreward pretrain-mini out=runs/mini install=true
  vlmreward train env=cartpole encoder.weights=runs/mini/mini-3.safetensors
""",
}

FLAGS = """\
flags:
  --cfg              print the composed settings and stop
  --config-dir DIR   a folder with more options, e.g. DIR/env/mine.yaml
  --debug            show the traceback of an error
"""


def overview() -> str:
    """Return what ``vlmreward --help`` prints."""
    from vlmreward.cli import COMMANDS

    return OVERVIEW.format(commands="\n".join(f"  {name:<15}{what}" for name, (_, what) in COMMANDS.items()))


def command_page(name: str) -> str:
    """Return what ``vlmreward <name> --help`` prints."""
    from vlmreward.cli import COMMANDS

    parts = [INTRO.get(name, f"{COMMANDS[name][1]}\n")]
    config = name.replace("-", "_")
    if config in PRIMARY:
        if name == "train":
            groups = "\n".join(f"  {group + '=':<12}{', '.join(options)}" for group, options in list_groups().items())
            parts.append(f"groups:\n{groups}\n")
        parts.append("settings and their defaults:\n" + _settings(config))
        parts.append(FLAGS)
    return "\n".join(parts).rstrip()


def _settings(name: str) -> str:
    """Return the primary config with its comments, without its header and list of groups."""
    text = (files("vlmreward.configs") / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines()[1:] if not line.startswith(("defaults:", "  - "))]
    return "\n".join(f"  {line}".rstrip() for line in lines).strip("\n") + "\n"
