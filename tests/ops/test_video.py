"""Frame identity is proved by a barcode: every frame of the test videos shows its own number in black and white bars."""

from fractions import Fraction

import av
import numpy as np
import pytest

from ops.rejects import ClipError, Reason
from ops.video import frame_times_s, probe, read_frames, write_video

NUM_FRAMES, HEIGHT, WIDTH, BITS = 300, 64, 160, 10


def barcode(number: int) -> np.ndarray:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        picture[:, bit * 16 : bit * 16 + 16] = 255 * (number >> bit & 1)
    texture = np.random.default_rng(number).integers(0, 60, (HEIGHT // 4, WIDTH // 4, 1)).repeat(4, 0).repeat(4, 1)
    return np.abs(picture.astype(int) - texture).clip(0, 255).astype(np.uint8)


def number_of(rgb: np.ndarray) -> int:
    means = rgb.mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return int(sum(1 << bit for bit, mean in enumerate(means) if mean > 127))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    made = {}

    def make(gop: int, bframes: int, suffix: str = ".mp4"):
        if (gop, bframes, suffix) not in made:
            path = tmp_path_factory.mktemp("video") / f"gop{gop}b{bframes}{suffix}"
            extra = {
                "bf": str(bframes),
                "b-pyramid": "normal" if bframes > 2 else "none",
                "sc_threshold": "0",
                "x264-params": "b-adapt=0",
            }
            write_video(path, map(barcode, range(NUM_FRAMES)), 30.0, gop=gop, crf=23, **extra)
            made[gop, bframes, suffix] = path
        return made[gop, bframes, suffix]

    return make


KINDS = [(1, 0), (30, 0), (250, 0), (30, 2), (250, 3), (7, 3)]


@pytest.mark.parametrize(("gop", "bframes"), KINDS)
def test_every_frame_is_itself(video, gop, bframes):
    frames = list(read_frames(video(gop, bframes)))
    assert [f.index for f in frames] == list(range(NUM_FRAMES))
    assert [number_of(f.rgb) for f in frames] == list(range(NUM_FRAMES))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(NUM_FRAMES) / 30, atol=1e-4)


@pytest.mark.parametrize(("gop", "bframes"), KINDS)
@pytest.mark.parametrize(
    "indices", [range(0, 300, 30), [7], [299], [0, 1, 2, 150, 298, 299], [29, 30, 31], range(3, 300, 17)]
)
def test_sparse_frames_are_the_sequential_ones(video, gop, bframes, indices):
    path = video(gop, bframes)
    whole = {f.index: f for f in read_frames(path)}
    frames = list(read_frames(path, indices))
    assert [f.index for f in frames] == list(indices)
    for frame in frames:
        assert number_of(frame.rgb) == frame.index
        assert np.array_equal(frame.rgb, whole[frame.index].rgb)
        assert frame.time_s == whole[frame.index].time_s


def test_b_frames_are_there_and_mostly_skipped(video):
    """The test videos hold what they claim to, else the tests above would prove nothing."""
    with av.open(str(video(250, 3))) as container:
        kinds = [int(frame.pict_type) for frame in container.decode(video=0)]
    assert kinds.count(3) > NUM_FRAMES / 2  # AV_PICTURE_TYPE_B
    assert probe(video(30, 2)).num_keyframes == 10
    assert probe(video(250, 3)).num_keyframes == 2


def test_opencv_agrees(video):
    import cv2

    capture = cv2.VideoCapture(str(video(30, 2)))
    numbers = []
    while True:
        more, bgr = capture.read()
        if not more:
            break
        numbers.append(number_of(bgr))
    assert numbers == [number_of(f.rgb) for f in read_frames(video(30, 2))]


@pytest.mark.parametrize("container", ["mkv", "mov", "avi"])
def test_other_containers(tmp_path, container):
    """AVI has no presentation times, so B-frames there must be put in order by decoding."""
    path = tmp_path / f"clip.{container}"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=30, options={"bf": "2", "x264-params": "b-adapt=0"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 30
        for number in range(100):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(number), format="rgb24")))
        target.mux(stream.encode(None))
    assert probe(path).num_frames == 100
    assert [number_of(f.rgb) for f in read_frames(path, [0, 1, 29, 30, 77, 99])] == [0, 1, 29, 30, 77, 99]
    assert [number_of(f.rgb) for f in read_frames(path)] == list(range(100))
    np.testing.assert_allclose(np.diff(frame_times_s(path)), 1 / 30, atol=2e-3)


def test_variable_frame_rate_keeps_its_times(tmp_path):
    path, times = tmp_path / "vfr.mp4", [0, 40, 100, 110, 300, 1000]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = time, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    np.testing.assert_allclose(info.times_s, np.array(times) / 1000, atol=1e-3)
    assert info.fps == pytest.approx(5.0, rel=1e-3)
    assert [(f.index, number_of(f.rgb)) for f in read_frames(path, [1, 4])] == [(1, 1), (4, 4)]


def test_resizing_is_a_pure_scaling(tmp_path):
    """A bright dot keeps its place in continuous coordinates (first pixel's centre at 0.5)."""
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[40:48, 96:104] = 255
    path = tmp_path / "dot.mp4"
    write_video(path, [picture] * 3, 10)
    small = next(iter(read_frames(path, [0], (80, 60)))).rgb.astype(float).mean(axis=2)
    small[small < 60] = 0
    v, u = (np.indices(small.shape) + 0.5).reshape(2, -1)
    centre = [(u * small.ravel()).sum() / small.sum(), (v * small.ravel()).sum() / small.sum()]
    np.testing.assert_allclose(centre, [50, 22], atol=0.15)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_rotation_metadata_is_applied(video, tmp_path, degrees, turns):
    path = tmp_path / "turned.mp4"
    path.write_bytes(_with_rotation(video(30, 0).read_bytes(), degrees))
    info = probe(path)
    assert (info.width, info.height) == ((HEIGHT, WIDTH) if turns % 2 else (WIDTH, HEIGHT))
    frame = next(iter(read_frames(path, [5]))).rgb
    upright = next(iter(read_frames(video(30, 0), [5]))).rgb
    with av.open(str(path)) as container:
        shown = round(next(container.decode(video=0)).rotation / 90) % 4  # counter-clockwise, as ffmpeg tells a player
    assert shown in (turns, -turns % 4)
    assert np.array_equal(frame, np.rot90(upright, shown))
    sized = (32, 80) if turns % 2 else (80, 32)
    assert next(iter(read_frames(path, [5], sized))).rgb.shape == (sized[1], sized[0], 3)


def _with_rotation(data: bytes, degrees: int) -> bytes:
    """Write a rotation into the track header's matrix (tkhd), as phones do."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    at = data.index(b"tkhd") + 4 + 40
    matrix = np.array([cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    return data[:at] + matrix + data[at + 36 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", Reason.EMPTY_VIDEO),
        (lambda data: b"this is no video " * 200, Reason.CORRUPT_VIDEO),
        (lambda data: data[: len(data) // 2], Reason.CORRUPT_VIDEO),
        (lambda data: bytes(len(data)), Reason.CORRUPT_VIDEO),
    ],
    ids=["zero bytes", "text", "cut in half", "zeros"],
)
def test_bad_files_say_why(video, tmp_path, damage, reason):
    path = tmp_path / "bad.mp4"
    path.write_bytes(damage(video(30, 2).read_bytes()))
    with pytest.raises(ClipError) as caught:
        probe(path)
    assert caught.value.reason == reason
    assert "bad.mp4" in caught.value.detail


@pytest.mark.parametrize("share", [0.35, 0.8, 0.97])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_truncation_is_found_even_where_the_index_stands_first(video, tmp_path, share, suffix):
    whole = tmp_path / f"whole.{suffix}"
    with (
        av.open(str(video(30, 2))) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"} if suffix == "mp4" else {}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: int(len(data) * share)])
    assert probe(whole).num_frames == NUM_FRAMES
    with pytest.raises(ClipError, match="corrupt_video"):
        probe(cut)


def test_an_audio_file_holds_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ClipError) as caught:
        probe(path)
    assert caught.value.reason == Reason.EMPTY_VIDEO


def test_a_damaged_middle_is_never_read_as_good_frames(video, tmp_path):
    """Bytes overwritten in the middle: what is read before an error is right, and the error comes."""
    data = bytearray(video(250, 0).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(ClipError) as caught:
        list(read_frames(path))
    assert caught.value.reason == Reason.CORRUPT_VIDEO


def test_indices_outside_are_refused(video):
    with pytest.raises(IndexError, match="0 to 299"):
        list(read_frames(video(30, 0), [300]))
    assert list(read_frames(video(30, 0), [])) == []


def test_writing_is_whole_or_absent_and_deterministic(tmp_path):
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    kept = []
    for path in (first, second):
        rng = np.random.default_rng(len(kept))
        big = [np.kron(barcode(n), np.ones((4, 3, 1), np.uint8)) for n in range(12)]
        # other memory around the frames, which x264's lookahead was found to depend on
        frames = (kept.append(rng.bytes(int(rng.integers(1, 2_000_000)))) or picture.copy() for picture in big)
        write_video(path, frames, 10)
    assert first.read_bytes() == second.read_bytes()

    def breaks():
        yield barcode(0)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_video(tmp_path / "c.mp4", breaks(), 10)
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "c.mp4", [], 10)
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "c.mp4", [np.zeros((33, 40, 3), np.uint8)], 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
