"""Small LeRobot datasets made with pyarrow and PyAV alone, as files that the project's own writer did not write."""

import hashlib
import io
import json
from types import SimpleNamespace

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlmreward.data.labels import EpisodeLabels, Provenance

FPS = 10
LENGTHS = (7, 12, 5)
TASKS = ("push the cube", "lift it", "läuft 蓝")
KEY = "observation.images.front"


def grey(index):
    """The grey of the picture at a place in the dataset: told apart by 9, which survives the codec."""
    return 10 + 9 * (index % 26)


def picture(index, size=(32, 48)):
    return np.full((*size, 3), grey(index), np.uint8)


def encode(path, indices, fps=FPS, gop=2, options=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.gop_size = gop
        for index in indices:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def png(index):
    out = io.BytesIO()
    Image.fromarray(picture(index)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": f"frame-{index:06d}.png"}


def rows_of(lengths, images=False, success=None):
    """The rows of a dataset as a table: numbers that tell place, episode and column."""
    total = sum(lengths)
    index = np.arange(total)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(n) for n in lengths])
    vectors = np.stack([index + 0.25, index + 0.5], axis=1).astype(np.float32)
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 2),
        "action": pa.FixedSizeListArray.from_arrays(pa.array((-vectors).reshape(-1)), 2),
        "next.reward": pa.array((index * 0.125).astype(np.float32)),
        "next.done": pa.array(frame == np.repeat(lengths, lengths) - 1),
        "timestamp": pa.array((frame / FPS).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(episode),
        "index": pa.array(index),
        "task_index": pa.array(episode),
    }
    if success is not None:
        columns["next.success"] = pa.array(
            np.concatenate([np.arange(n) == n - 1 for n in lengths]) & np.repeat(success, lengths)
        )
    if images:
        columns["observation.image"] = pa.array(
            [png(i) for i in index], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
    table = pa.table(columns)
    described = {"info": {"features": {"index": {"dtype": "int64", "_type": "Value"}}}, "fingerprint": "abc"}
    return table.replace_schema_metadata({"huggingface": json.dumps(described), "other": "kept"})


def features_of(table, video):
    known = {
        "observation.state": ("float32", [2]),
        "action": ("float32", [2]),
        "observation.image": ("image", [32, 48, 3]),
    }
    features = {}
    for name in table.column_names:
        dtype, shape = known.get(name, (str(table.schema.field(name).type).replace("float", "float32"), [1]))
        features[name] = {"dtype": dtype, "shape": shape, "names": None}
    if video:
        features[KEY] = {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    return features


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def build_v30(tmp_path):
    """Make a dataset of version 3.0: two data files, one video file of all episodes, or pictures in the rows."""

    def build(root=None, lengths=LENGTHS, images=False, video=True, success=None, one_group=False):
        root = root or tmp_path / "set"
        table = rows_of(lengths, images, success)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        split = int(starts[-2])  # the last episode has a data file of its own
        for number, part in enumerate((table.slice(0, split), table.slice(split))):
            path = root / f"data/chunk-000/file-{number:03d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(path, table.schema, compression="zstd" if number else "snappy") as writer:
                episodes = part["episode_index"].to_numpy()
                for e in [None] if one_group else np.unique(episodes):
                    writer.write_table(part if e is None else part.filter(pa.array(episodes == e)))
        listed = {
            "episode_index": pa.array(np.arange(len(lengths))),
            "tasks": pa.array([[TASKS[e % 3]] for e in range(len(lengths))]),
            "length": pa.array(np.array(lengths)),
            "data/chunk_index": pa.array(np.zeros(len(lengths), np.int64)),
            "data/file_index": pa.array((np.arange(len(lengths)) == len(lengths) - 1).astype(np.int64)),
            "dataset_from_index": pa.array(starts[:-1]),
            "dataset_to_index": pa.array(starts[1:]),
            "stats/action/min": pa.array([[0.0, 0.0]] * len(lengths)),
        }
        if video:
            encode(root / f"videos/{KEY}/chunk-000/file-000.mp4", range(sum(lengths)))
            zeros = pa.array(np.zeros(len(lengths), np.int64))
            listed |= {f"videos/{KEY}/chunk_index": zeros, f"videos/{KEY}/file_index": zeros}
            listed |= {f"videos/{KEY}/from_timestamp": pa.array(starts[:-1] / FPS)}
            listed |= {f"videos/{KEY}/to_timestamp": pa.array(starts[1:] / FPS)}
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(listed), path)
        write_json(root / "meta/stats.json", {"action": {"min": [0.0, 0.0]}})
        write_json(
            root / "meta/info.json",
            {
                "codebase_version": "v3.0",
                "total_episodes": len(lengths),
                "total_frames": sum(lengths),
                "chunks_size": 1000,
                "fps": FPS,
                "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
                "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
                "features": features_of(table, video),
            },
        )
        return root

    return build


@pytest.fixture
def build_v21(tmp_path):
    """Make a dataset of version 2.1: a data file and a video for each episode."""

    def build(lengths=LENGTHS):
        root = tmp_path / "set21"
        table = rows_of(lengths)
        lines, stats = [], []
        starts = np.concatenate([[0], np.cumsum(lengths)])
        for e, n in enumerate(lengths):
            part = table.slice(int(starts[e]), n)
            path = root / f"data/chunk-000/episode_{e:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(part, path)
            encode(root / f"videos/chunk-000/{KEY}/episode_{e:06d}.mp4", range(starts[e], starts[e + 1]))
            lines.append({"episode_index": e, "tasks": [TASKS[e % 3]], "length": n})
            stats.append({"episode_index": e, "stats": {"action": {"min": [0.0, 0.0], "count": [n]}}})
        (root / "meta").mkdir()
        for name, content in (("episodes", lines), ("episodes_stats", stats)):
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
            (root / f"meta/{name}.jsonl").write_text(text, encoding="utf-8")
        write_json(
            root / "meta/info.json",
            {
                "codebase_version": "v2.1",
                "total_episodes": len(lengths),
                "total_frames": sum(lengths),
                "chunks_size": 1000,
                "fps": FPS,
                "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
                "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
                "features": features_of(table, True),
            },
        )
        return root

    return build


class ListedLabels:
    """Labels of frames and rows; row t of the episode that starts at index s has reward s + t.

    Frame f of F has progress f / F, row t that of frame t + 1; every fifth frame is lost, from frame 4 on.
    """

    def __init__(self, episodes, run="ab" * 8, offset=0.0, parts=True):
        self.provenance = Provenance(run, "mini-1 fp32", "MIT", {"alpha": 0.5}, "a goal", "front", "0.1.0")
        self._labels, self._frames = [], []
        start = 0
        for episode in episodes:
            rows = np.arange(episode.rows)
            valid = (rows != episode.rows - 1) & (rows % 5 != 3)
            reward = np.where(valid, start + rows + offset, np.nan).astype(np.float32)
            progress = np.where(valid, (rows + 1) / episode.rows, np.nan).astype(np.float32) if parts else None
            success = np.where(valid, 0.25, np.nan).astype(np.float32) if parts else None
            self._labels.append(EpisodeLabels(reward, valid, success, progress, {3: "damaged picture"}))
            seen = rows % 5 != 4
            own = np.where(seen, rows / episode.rows, np.nan).astype(np.float32) if parts else None
            self._frames.append(SimpleNamespace(valid=seen, progress=own))
            start += episode.rows

    def episode(self, index):
        return self._labels[index]

    def frames(self, index):
        return self._frames[index]

    def __iter__(self):
        return iter(self._labels)


@pytest.fixture
def labels():
    """Return what makes labels for the episodes of a dataset."""
    return ListedLabels


@pytest.fixture
def tree():
    """Return what gives the hash of every file under a folder by name, links as what they point to."""

    def of(root):
        found = {}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    return of


@pytest.fixture
def content():
    """Return what gives everything that a dataset says, whatever the bytes of its parquet files."""

    def of(root):
        found = {}
        for path in sorted(p for p in root.rglob("[!.]*") if p.is_file()):
            name = path.relative_to(root).as_posix()
            if path.suffix == ".parquet":
                with pq.ParquetFile(path) as file:
                    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
                    found[name] = (file.read(), file.schema_arrow.metadata, groups)
            elif path.suffix == ".json":
                found[name] = json.loads(path.read_text(encoding="utf-8"))
            else:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    return of


@pytest.fixture
def greys():
    """Return what gives the grey levels that a range of places in the dataset must show."""
    return lambda start, stop: [grey(i) for i in range(start, stop)]


@pytest.fixture
def write_video():
    """Return what encodes pictures of places in a dataset into a video file."""
    return encode
