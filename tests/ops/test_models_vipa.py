import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ops.models import presets
from ops.models.fusion import CrossAttentionFusion
from ops.models.grammar import MedianMotion, MotionGrammar
from ops.models.processor import IGNORE, TokenBatch, prompt_batch, semantic_pixels, training_batch
from ops.models.tokenizer import NUM_BINS, TokenizerConfig, TokenLayout
from ops.models.vipa import FrameFeatures, VipaConfig, VipaVLA, build, skeleton
from tests.ops.small_models import LAYOUT, VIPA, images, prompt, untied


@pytest.fixture(scope="module")
def model() -> VipaVLA:
    return build(VIPA, seed=0)


def batch(num_frames: int = 1) -> TokenBatch:
    answers = [[*b"yes", LAYOUT.end_of_turn], LAYOUT.motion_ids([5, 600, 1023]), [*b"0.12 m"]]
    prompts = [prompt(text, num_frames) for text in ("where?", "how far is the cup", "?")]
    return training_batch(prompts, answers, LAYOUT.pad)


def full_loss(model: VipaVLA, features: FrameFeatures, rows: TokenBatch) -> Tensor:
    """Second route: transformers' own forward and all scores."""
    visual = model.visual_tokens(features).flatten(0, 1)
    out = model.vlm(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=visual)},
    )
    logits, targets = out.logits[:, :-1].flatten(0, 1), rows.labels[:, 1:].flatten()
    return functional.cross_entropy(logits, targets, ignore_index=IGNORE)


@pytest.mark.parametrize("num_frames", [1, 3])
def test_loss_over_label_places_is_the_full_loss(model: VipaVLA, num_frames: int) -> None:
    rows, features = batch(num_frames), model.encode_frames(images(1, 3, num_frames))
    loss, num = model(features, rows.input_ids, rows.attention_mask, rows.labels)
    assert num == 4 + 5 + 6
    assert torch.allclose(loss, full_loss(model, features, rows), atol=1e-6)
    names = [n for n, _ in model.named_parameters() if n.startswith(("fusion", "vlm.model.language_model.layers"))]
    ours = torch.autograd.grad(loss, [model.get_parameter(n) for n in names])
    theirs = torch.autograd.grad(full_loss(model, features, rows), [model.get_parameter(n) for n in names])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_padding_changes_no_loss(model: VipaVLA) -> None:
    rows, features = batch(), model.encode_frames(images(2, 3, 1))
    wide = training_batch([prompt("a" * 50)], [[1, 2]], LAYOUT.pad)
    extra = wide.input_ids.shape[1] - rows.input_ids.shape[1]
    padded = [
        functional.pad(t, (0, extra), value=v)
        for t, v in zip((rows.input_ids, rows.attention_mask, rows.labels), (LAYOUT.pad, 0, IGNORE), strict=True)
    ]
    left = [
        functional.pad(t, (extra, 0), value=v)
        for t, v in zip((rows.input_ids, rows.attention_mask, rows.labels), (LAYOUT.pad, 0, IGNORE), strict=True)
    ]
    losses = [model(features, *t)[0] for t in ((rows.input_ids, rows.attention_mask, rows.labels), padded, left)]
    assert torch.allclose(losses[0], losses[1], atol=1e-6)
    assert torch.allclose(losses[0], losses[2], atol=1e-5)


def test_without_fusion_it_is_the_plain_internvl() -> None:
    """Against transformers' route from pixels; once by alpha = 0, once by fuse=False."""
    model, pictures = build(VIPA, seed=1), images(3, 2, 2)
    rows = prompt_batch([prompt("where?", 2)] * 2, LAYOUT.pad)
    pixels = semantic_pixels(pictures.flatten(0, 1), VIPA.vision.image_size)
    with torch.no_grad():
        plain = model.vlm(
            input_ids=rows.input_ids, attention_mask=rows.attention_mask, pixel_values=pixels, output_hidden_states=True
        )
        features = model.encode_frames(pictures)
        fused = model.hidden(model.embed(features, rows.input_ids), rows.attention_mask)
        off = model.hidden(model.embed(features, rows.input_ids, fuse=False), rows.attention_mask)
        model.fusion.alpha.zero_()
        zero = model.hidden(model.embed(features, rows.input_ids), rows.attention_mask)
    assert torch.equal(zero, off)
    assert torch.allclose(zero, plain.hidden_states[-1], atol=1e-5)
    assert (fused - zero).abs().max() > 1e-3


@torch.no_grad()
def test_greedy_batch_equals_one_by_one_without_cache(model: VipaVLA) -> None:
    rows = prompt_batch([prompt("where?"), prompt("a much longer question about the cup"), prompt("")], LAYOUT.pad)
    features = model.encode_frames(images(4, 3, 1))
    together = model.generate(features, rows.input_ids, rows.attention_mask, 6)
    for i, ids in enumerate([prompt("where?"), prompt("a much longer question about the cup"), prompt("")]):
        own = FrameFeatures(features.semantic[i : i + 1], features.spatial[i : i + 1])
        for new in together[i].tolist():
            states = model.hidden(model.embed(own, torch.tensor([ids])), torch.ones(1, len(ids), dtype=torch.long))
            assert model.vlm.lm_head(states[0, -1]).argmax() == new
            ids = [*ids, new]
            if new == LAYOUT.end_of_turn:
                break


@pytest.mark.parametrize("axis_vocab", ["shared", "per_axis"])
@torch.no_grad()
def test_grammar_makes_an_untrained_model_write_whole_waypoints(axis_vocab: str) -> None:
    config = replace(VIPA, tokenizer=TokenizerConfig(0, axis_vocab))
    model, layout = build(config, seed=2), TokenLayout(config.tokenizer)
    features = model.encode_frames(images(5, 3, 1))
    ids = torch.tensor([[layout.image] * config.tokens_per_frame + [65, 66]] * 3)
    wanted = [1, 4, 2]
    out = model.generate(features, ids, torch.ones_like(ids), 3 * 4 + 3, MotionGrammar(layout, wanted))
    for row, num in zip(out.tolist(), wanted, strict=True):
        bins = layout.motion_tokens(row)
        assert bins.shape == (num, 3)
        assert bins.max() < NUM_BINS
        assert row[3 * num + 2] == layout.end_of_turn
        assert set(row[3 * num + 3 :]) <= {layout.pad}


def test_free_grammar_closes_only_after_whole_waypoints() -> None:
    grammar = MotionGrammar(LAYOUT)
    begin = LAYOUT.motion_open
    m = LAYOUT.first_motion
    for written, may_close, may_move in (
        ([begin], False, True),
        ([begin, m], False, True),
        ([begin, m, m, m], True, True),
    ):
        scores = grammar(torch.tensor([written]), torch.zeros(1, LAYOUT.vocab_size))
        assert bool(torch.isfinite(scores[0, LAYOUT.motion_close])) is may_close
        assert bool(torch.isfinite(scores[0, m + 7])) is may_move
        assert not torch.isfinite(scores[0, :256]).any()
    done = grammar(torch.tensor([[begin, m, m, m, LAYOUT.motion_close]]), torch.zeros(1, LAYOUT.vocab_size))
    assert torch.isfinite(done[0]).nonzero().flatten().tolist() == [LAYOUT.end_of_turn]


@torch.no_grad()
def test_action_condition_does_not_see_padding(model: VipaVLA) -> None:
    features, ids = model.encode_frames(images(6, 1, 1)), prompt("pick up the cup")
    alone = model.action_condition(features, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    assert alone.shape == (1, VIPA.num_queries, VIPA.text.width)
    pads, mask = [LAYOUT.pad] * 7, torch.tensor([[1] * len(ids) + [0] * 7])
    right = model.action_condition(features, torch.tensor([ids + pads]), mask)
    left = model.action_condition(features, torch.tensor([pads + ids]), mask.flip(1))
    assert torch.allclose(alone, right, atol=1e-5)
    assert torch.allclose(alone, left, atol=1e-5)
    other = model.action_condition(
        features, torch.tensor([prompt("pick up the bowl")]), torch.ones(1, len(ids) + 1, dtype=torch.long)
    )
    assert (alone - other).abs().max() > 1e-3


@torch.no_grad()
def test_action_queries_equal_added_tokens(model: VipaVLA) -> None:
    """Second route: the queries as rows of the embedding table."""
    ids = prompt("pick up the cup")
    features = model.encode_frames(images(7, 1, 1))
    table = model.vlm.get_input_embeddings().weight
    saved = table[10 : 10 + VIPA.num_queries].clone()
    table[10 : 10 + VIPA.num_queries] = model.action_queries
    tokens = torch.tensor([ids + list(range(10, 10 + VIPA.num_queries))])
    states = model.hidden(model.embed(features, tokens), torch.ones_like(tokens))[:, -VIPA.num_queries :]
    table[10 : 10 + VIPA.num_queries] = saved
    assert torch.allclose(
        model.action_condition(features, tokens[:, : len(ids)], torch.ones(1, len(ids), dtype=torch.long)),
        states,
        atol=1e-6,
    )


def test_wrong_number_of_image_places_is_refused(model: VipaVLA) -> None:
    features = model.encode_frames(images(8, 1, 2))
    ids = torch.tensor([prompt("where?", 1)])
    with pytest.raises(ValueError, match=r"each row needs 8 <IMG_CONTEXT> tokens, got \[4\]"):
        model.embed(features, ids)
    with pytest.raises(ValueError, match="needs 0"):
        model.embed(None, ids)


# stages


LLM = "vlm.model.language_model."


def test_each_stage_trains_the_papers_parameters() -> None:
    model = skeleton(untied(VIPA))
    names = {name for name, _ in model.named_parameters()}

    def below(*prefixes: str) -> set[str]:
        return {name for name in names if name.startswith(prefixes)}

    assert set(model.trainable_names("stage1")) == below("fusion.")
    assert set(model.trainable_names("stage2")) == below("fusion.", LLM, "vlm.lm_head.")
    assert set(model.trainable_names("stage3")) == below(LLM, "head.", "action_queries")
    assert set(model.trainable_names("stage3", train_fusion=True)) == below(LLM, "head.", "action_queries", "fusion.")
    assert f"{LLM}embed_tokens.weight" in model.trainable_names("stage2"), "motion-token embeddings"
    frozen = below("spatial_encoder.", "vlm.model.vision_tower.", "vlm.model.multi_modal_projector.")
    assert all(not frozen & set(model.trainable_names(stage)) for stage in ("stage1", "stage2", "stage3"))
    assert set(model.trainable_names("base")) == below("vlm.")
    with pytest.raises(ValueError, match="no training stage 'stage4'"):
        model.trainable_names("stage4")


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_a_step_moves_exactly_the_trained_parameters(stage: str) -> None:
    model = build(untied(VIPA), seed=3)
    model.set_stage(stage)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    rows, features = batch(), model.encode_frames(images(9, 3, 1))
    if stage == "stage3":
        cond = model.action_condition(features, rows.input_ids, rows.attention_mask)
        loss = model.head.loss(
            cond, torch.ones(3, 8), torch.ones(3, 4, 7), torch.ones(3, 4), torch.Generator().manual_seed(0)
        )
    else:
        loss, _ = model(features, rows.input_ids, rows.attention_mask, rows.labels)
    loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    # a key's bias adds the same to all scores of a query, so softmax gives it no gradient but rounding
    idle = {n for n in model.trainable_names(stage) if n.endswith(("key.bias",))}
    assert moved - idle == set(model.trainable_names(stage)) - idle


def test_dropout_works_in_trained_parts_only() -> None:
    model = build(VIPA, seed=4)
    training = {}
    for stage in ("stage1", "stage2", "stage3"):
        model.set_stage(stage)
        training[stage] = {
            part
            for part in (
                "fusion.dropout",
                "head.blocks.0.dropout",
                "vlm.model.language_model",
                "vlm.model.vision_tower",
                "spatial_encoder",
            )
            if model.get_submodule(part).training
        }
    assert training == {
        "stage1": {"fusion.dropout"},
        "stage2": {"fusion.dropout", "vlm.model.language_model"},
        "stage3": {"head.blocks.0.dropout", "vlm.model.language_model"},
    }


# frames


def test_features_of_a_frame_alone_can_be_kept() -> None:
    pictures = images(10, 2, 3)
    alone = build(replace(VIPA, state_per_frame=True), seed=5)
    features = alone.encode_frames(pictures)
    single = alone.encode_frames(pictures[:, 2:])
    assert torch.allclose(features.spatial[:, 2], single.spatial[:, 0], atol=1e-6)
    assert torch.allclose(features.semantic[:, 2], single.semantic[:, 0], atol=1e-6)
    recurrent = alone.encode_frames(pictures, state_per_frame=False)
    assert torch.allclose(recurrent.spatial[:, 0], features.spatial[:, 0], atol=1e-6)
    assert (recurrent.spatial[:, 2] - features.spatial[:, 2]).abs().max() > 1e-3
    assert not features.spatial.requires_grad


@torch.no_grad()
def test_visual_tokens_keep_frames_apart(model: VipaVLA) -> None:
    features = model.encode_frames(images(11, 1, 2), state_per_frame=True)
    tokens = model.visual_tokens(features)
    assert tokens.shape == (1, 2, VIPA.tokens_per_frame, VIPA.text.width)
    changed = FrameFeatures(features.semantic, torch.cat((features.spatial[:, :1], features.spatial[:, 1:] + 1), 1))
    assert torch.allclose(model.visual_tokens(changed)[:, 0], tokens[:, 0], atol=1e-6)


# fusion


def test_fusion_is_one_attention_layer_with_learned_alpha() -> None:
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(VIPA.fusion).eval()
    semantic, spatial = torch.randn(2, 5, 16), torch.randn(2, 3, 24)
    assert fusion.alpha.item() == 0.5
    memory = fusion.norm_spatial(spatial)
    q, k, v = (
        functional.linear(x, w, b).unflatten(-1, (2, 8)).transpose(1, 2)
        for x, w, b in zip(
            (fusion.query(fusion.norm_semantic(semantic)), fusion.key(memory), fusion.value(memory)),
            fusion.attention.in_proj_weight.chunk(3),
            fusion.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    attended = ((q @ k.transpose(2, 3)) / 8**0.5).softmax(-1) @ v
    branch = fusion.out(fusion.attention.out_proj(attended.transpose(1, 2).flatten(2)))
    assert torch.allclose(fusion(semantic, spatial), semantic + 0.5 * fusion.norm_out(branch), atol=1e-6)
    literal = CrossAttentionFusion(replace(VIPA.fusion, norm="post")).eval()
    literal.load_state_dict(fusion.state_dict())
    assert torch.allclose(literal(semantic, spatial), fusion.norm_out(semantic + 0.5 * branch), atol=1e-6)
    with pytest.raises(ValueError, match="allowed are"):
        CrossAttentionFusion(replace(VIPA.fusion, norm="pre"))


@torch.no_grad()
def test_fusion_behind_the_projector_works() -> None:
    config = replace(VIPA, fusion=replace(VIPA.fusion, semantic_width=32, place="after_projector"))
    model = build(config, seed=6)
    features = model.encode_frames(images(12, 1, 1))
    difference = model.visual_tokens(features) - model.visual_tokens(features, fuse=False)
    assert difference.shape == (1, 1, VIPA.tokens_per_frame, 32)
    assert difference.abs().max() > 1e-3


# disk


@pytest.mark.parametrize("config", [VIPA, untied(VIPA)], ids=["tied", "untied"])
def test_round_trip_is_bit_equal(config: VipaConfig, tmp_path: Path) -> None:
    model = build(config, seed=7)
    model.save(tmp_path)
    loaded = VipaVLA.load(tmp_path)
    assert loaded.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert (loaded.vlm.lm_head.weight is loaded.vlm.get_input_embeddings().weight) is config.text.tied
    assert not [name for name, tensor in (*loaded.named_parameters(), *loaded.named_buffers()) if tensor.is_meta]
    rows, features = batch(), model.encode_frames(images(13, 3, 1))
    arguments = (features, rows.input_ids, rows.attention_mask, rows.labels)
    assert torch.equal(model(*arguments)[0], loaded(*arguments)[0])


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    model = build(VIPA, seed=8).to(torch.bfloat16)
    model.save(tmp_path)
    assert {tensor.dtype for tensor in VipaVLA.load(tmp_path).parameters()} == {torch.bfloat16}


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        VipaVLA.load(tmp_path)
    build(VIPA, seed=9).save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["text"]["num_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="made by another architecture"):
        VipaVLA.load(tmp_path)
    values["text"]["layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="unknown key 'layers'"):
        VipaVLA.load(tmp_path)


def test_equal_seeds_give_equal_weights_and_leave_the_global_state() -> None:
    torch.manual_seed(99)
    first = build(VIPA, seed=1).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(99)
    assert torch.equal(torch.rand(1), drawn)
    second, other = build(VIPA, seed=1).state_dict(), build(VIPA, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["action_queries"], other["action_queries"])


# sizes


def test_paper_preset_has_the_published_sizes() -> None:
    size = presets.count_parameters("paper")
    new_rows = (TokenLayout(TokenizerConfig()).vocab_size - 151_936) * 2048
    tied = size["vision encoder"] + size["projector"] + size["token embeddings"] + size["language model"] - new_rows
    assert round(tied / 1e6, 1) == 2037.2
    assert round((tied + size["output head"] - new_rows) / 1e6, 1) == 2348.3
    assert size["spatial encoder"] == 793_307_858
    assert round(size["fusion"] / 1e6, 1) == 7.9
    assert size["action head"] == 560_148_999
    assert size["all"] == sum(size.values()) - size["all"]
    trained = {row["part"]: row["trained_in"] for row in presets.describe("paper")}
    assert trained["fusion"] == "stage1, stage2"
    assert trained["language model"] == "stage2, stage3"
    assert trained["action head"] == trained["action queries"] == "stage3"
    assert trained["vision encoder"] == trained["spatial encoder"] == trained["projector"] == ""


def test_presets_are_named() -> None:
    with pytest.raises(ValueError, match="there are tiny, paper"):
        presets.by_name("medium")
    assert presets.count_parameters("tiny")["all"] < 9e6


@torch.no_grad()
def test_paper_preset_fits_together() -> None:
    """Shapes at full size, on the meta device: two 448 x 448 frames through everything but the prompt."""
    config = presets.paper()
    model = skeleton(config).to("meta")
    features = model.encode_frames(torch.empty(1, 2, 480, 640, 3, dtype=torch.uint8, device="meta"))
    assert features.semantic.shape == (1, 2, 1024, 1024)
    assert features.spatial.shape == (1, 2, 785, 768)
    visual = model.visual_tokens(features)
    assert visual.shape == (1, 2, 256, 2048)
    states = model.vlm.model.language_model(
        inputs_embeds=visual.flatten(1, 2), attention_mask={"full_attention": None}, use_cache=False
    ).last_hidden_state
    condition = model.head.condition(states[:, :16], torch.empty(1, 8, device="meta"))
    modulation = model.head.modulate(torch.empty(4, device="meta"))
    assert model.head.velocity(torch.empty(1, 16, 7, device="meta"), condition, modulation, 0).shape == (1, 16, 7)
    view = model.spatial_encoder(torch.empty(1, 1, 3, 384, 512, device="meta"))[0]
    assert view.pts3d_in_self_view.shape == (1, 384, 512, 3)


def test_coordinates_are_medians_of_the_allowed_bins():
    first, last = LAYOUT.motion_range(0)
    scores = torch.randn(2, LAYOUT.vocab_size, generator=torch.Generator().manual_seed(5)) * 3
    grammar = MedianMotion(LAYOUT, [1, 1])
    begun = torch.tensor([[LAYOUT.motion_open]] * 2)
    chosen = grammar(begun, scores).argmax(dim=-1)
    for row in (0, 1):
        share = scores[row, first:last].softmax(dim=-1)
        middle = int(chosen[row]) - first
        assert float(share[:middle].sum()) < 0.5 <= float(share[: middle + 1].sum()) + 1e-6
    ended = torch.tensor([[LAYOUT.motion_open, first, first, first]])  # what is no coordinate stays as it is
    assert int(grammar(ended, scores[:1]).argmax()) == LAYOUT.motion_close
