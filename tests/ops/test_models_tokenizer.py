from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ops.bootstrap import weights_dir
from ops.models import processor, tokenizer
from ops.models.processor import semantic_pixels, spatial_pixels, training_batch
from ops.models.tokenizer import NUM_BINS, TokenizerConfig, TokenLayout, VipaTokenizer

FOLDER = weights_dir(Path()) / "tokenizer"
TEXTS = (
    "In <image>, where is the red mug relative to the right wrist? right, up, forward; 0.23 m.",
    "Il prend la tasse \u00e0 gauche.\n\n\t42 \u4e07\u8c61 \U0001f590",
)


# layout: no file needed


def test_public_ids() -> None:
    full = TokenLayout(TokenizerConfig())
    assert [full.id(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [151643, 151644, 151645]
    assert [full.id(token) for token in ("</think>", "<img>", "</img>", "<IMG_CONTEXT>", "</box>")] == [
        151668,
        151669,
        151670,
        151671,
        151677,
    ]
    assert (full.motion_open, full.motion_close, full.id("<motion_0>"), full.vocab_size) == (
        151678,
        151679,
        151680,
        152704,
    )
    assert TokenLayout(TokenizerConfig(None, "per_axis")).vocab_size == 152704 + 2048


@pytest.mark.parametrize("axis_vocab", ["shared", "per_axis"])
def test_motion_round_trip(axis_vocab: str) -> None:
    layout = TokenLayout(TokenizerConfig(10, axis_vocab))
    bins = np.random.default_rng(0).integers(0, NUM_BINS, (7, 3)).astype(np.uint16)
    ids = layout.motion_ids(bins)
    assert ids == layout.motion_ids(bins.reshape(-1).tolist())
    assert len(ids) == 23
    assert np.array_equal(layout.motion_tokens([1, 2, *ids, layout.end_of_turn]), bins)
    for place, id_ in enumerate(ids[1:-1]):
        first, last = layout.motion_range(place % 3)
        assert first <= id_ < last <= layout.vocab_size
    ranges = {layout.motion_range(axis) for axis in range(3)}
    assert len(ranges) == (1 if axis_vocab == "shared" else 3)


def test_bad_motion_is_refused() -> None:
    layout = TokenLayout(TokenizerConfig(10, "per_axis"))
    for bins in ([1, 2], [0, 0, 1024], [-1, 0, 0]):
        with pytest.raises(ValueError, match="multiple of 3, each 0 to 1023"):
            layout.motion_ids(bins)
    good = layout.motion_ids([1, 2, 3])
    with pytest.raises(ValueError, match="no <mot>"):
        layout.motion_tokens(good[1:])
    with pytest.raises(ValueError, match="never closed"):
        layout.motion_tokens(good[:-1])
    with pytest.raises(ValueError, match="not a multiple of 3"):
        layout.motion_tokens([good[0], good[1], good[-1]])
    with pytest.raises(ValueError, match="not one of its axis"):
        layout.motion_tokens([good[0], good[2], good[1], good[3], good[-1]])


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed are 'shared' and 'per_axis'"):
        TokenLayout(TokenizerConfig(10, "both"))
    with pytest.raises(ValueError, match="allowed are 0 to 151387"):
        TokenLayout(TokenizerConfig(200_000))


def test_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hand3d bootstrap"):
        tokenizer.load(tmp_path)


# the real tokenizer


@pytest.fixture(scope="module")
def full() -> VipaTokenizer:
    return tokenizer.load(FOLDER)


@pytest.fixture(scope="module")
def small() -> VipaTokenizer:
    return tokenizer.load(FOLDER, num_merges=2000)


@pytest.mark.weights
def test_full_size_equals_the_published_tokenizer(full: VipaTokenizer) -> None:
    from transformers import PreTrainedTokenizerFast

    published = PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"))
    for text in (*TEXTS, "<|im_start|>user\nhi<|im_end|>"):
        assert full.encode(text) == published.encode(text, add_special_tokens=False)
    assert full.encode("<img><IMG_CONTEXT></img>") == [151669, 151671, 151670]
    assert full.encode("<mot><motion_1023></mot>") == [151678, 152703, 151679]


@pytest.mark.weights
def test_small_vocabulary_keeps_ids_and_writes_any_text(small: VipaTokenizer, full: VipaTokenizer) -> None:
    assert small.backend.get_vocab_size() == small.layout.vocab_size == 256 + 2000 + 35 + 2 + 1024
    for text in TEXTS:
        ids = small.encode(text)
        assert small.decode(ids) == full.decode(full.encode(text)) == text
        assert "".join(full.backend.id_to_token(i) for i in ids) == "".join(small.backend.id_to_token(i) for i in ids)
    for word in ("the", " in", " to"):
        assert small.encode(word) == full.encode(word)
    assert small.encode("<|im_end|>") == [small.layout.end_of_turn]


@pytest.mark.weights
def test_prompt_is_internvl_chatml(full: VipaTokenizer, small: VipaTokenizer) -> None:
    ids = processor.prompt_ids(full, "Where is it?", 2, 3, system="Be brief.")
    frame = "<img>" + "<IMG_CONTEXT>" * 3 + "</img>\n"
    text = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{frame}{frame}Where is it?<|im_end|>\n<|im_start|>assistant\n"
    assert full.decode(ids, skip_special=False) == text
    assert ids == full.encode(text)
    assert full.decode(processor.prompt_ids(full, "?", 1, 1), skip_special=False).startswith(
        "<|im_start|>system\n\u4f60\u662f"
    )
    for tokenizer_, system in ((full, ""), (small, None)):
        plain = processor.prompt_ids(tokenizer_, "?", 1, 1, system=system)
        assert tokenizer_.decode(plain, skip_special=False).startswith("<|im_start|>user\n<img>")
    shown = processor.prompt_ids(full, "And then?", 1, 1, context=[1, 2, 3])
    assert "And then?<mot><motion_1><motion_2><motion_3></mot><|im_end|>" in full.decode(shown, skip_special=False)


@pytest.mark.weights
def test_answers_end_the_turn(small: VipaTokenizer) -> None:
    answer = processor.answer_ids(small, "right, 0.2 m")
    assert small.decode(answer) == "right, 0.2 m"
    assert answer[-1] == small.layout.end_of_turn
    assert processor.answer_ids(small, motion=[1, 2, 3]) == [
        *small.layout.motion_ids([1, 2, 3]),
        small.layout.end_of_turn,
    ]
    with pytest.raises(ValueError, match="either a text or motion"):
        processor.answer_ids(small)


@pytest.mark.weights
@pytest.mark.parametrize("text", ["ends here <|im_end|> or not", "see <IMG_CONTEXT>", "<motion_5>"])
def test_control_tokens_in_data_are_refused(small: VipaTokenizer, text: str) -> None:
    with pytest.raises(ValueError, match="holds the control token <"):
        processor.prompt_ids(small, text, 1, 4)


@pytest.mark.weights
def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    text = (FOLDER / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(
        text.replace('"id":151645', '"id":151646').replace('"id": 151645', '"id": 151646'), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="not Qwen3's tokenizer"):
        tokenizer.load(tmp_path)


# batches and pixels


def test_training_rows_predict_answers_only() -> None:
    rows = training_batch([[1, 2, 3], [4]], [[5], [6, 7]], pad=0)
    assert rows.input_ids.tolist() == [[1, 2, 3, 5], [4, 6, 7, 0]]
    assert rows.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert rows.labels.tolist() == [[-100, -100, -100, 5], [-100, 6, 7, -100]]
    prompts = processor.prompt_batch([[1, 2, 3], [4]], pad=0)
    assert prompts.input_ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert prompts.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("size", [448, 168])
def test_resizing_is_pils_bicubic(size: int) -> None:
    rng = np.random.default_rng(1)
    smooth = np.asarray(
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    )
    ours = semantic_pixels(torch.from_numpy(smooth.copy())[None, None], size)[0, 0]
    pil = (
        torch.from_numpy(
            np.asarray(Image.fromarray(smooth).resize((size, size), Image.Resampling.BICUBIC)).copy()
        ).permute(2, 0, 1)
        / 255
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    difference = (ours * std + mean - pil).abs() * 255
    assert difference.max() <= 1.01, "one grey level: PIL rounds between its two passes"
    assert difference.mean() < 0.25


def test_spatial_encoder_sees_the_same_picture_in_its_own_range() -> None:
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    picture[:, :32] = 255
    x = spatial_pixels(semantic_pixels(picture, 64), 64)
    assert torch.allclose(x[0, :, :32], torch.ones(3, 32, 64), atol=1e-5)
    assert torch.allclose(x[0, :, 32:], -torch.ones(3, 32, 64), atol=1e-5)
    assert spatial_pixels(semantic_pixels(picture, 64), 32).shape == (1, 3, 32, 32)
