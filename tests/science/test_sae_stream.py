"""Streams of batches: what they serve, how they mix, that they resume, and that sharing one changes no bit of any SAE."""

import json
import signal
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch

from sae_pipeline.digests import file_digest
from sae_pipeline.errors import UserError
from sae_pipeline.interrupt import Deferred, stop_if_asked
from sae_pipeline.sae import trainer as trainers
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.build import build_sae, make_stream
from sae_pipeline.sae.gated import Gated
from sae_pipeline.sae.jumprelu import JumpReLU
from sae_pipeline.sae.matryoshka import Matryoshka
from sae_pipeline.sae.mixing import Mixing, MixingMeter
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.source import PermutedStream, RingStream, Shuffle
from sae_pipeline.sae.topk import TopK
from sae_pipeline.sae.trainer import Trainer, TrainingPlan, train_together
from sae_pipeline.study import Sae
from tests.science.planted import PlantedActivations
from tests.science.trainings import digests

BATCH, SLOTS = 64, 640


@pytest.fixture(scope="module")
def planted() -> PlantedActivations:
    return PlantedActivations()


def streamed() -> PlantedActivations:
    made = PlantedActivations()
    made.is_streamed = True
    return made


def test_shuffle_covers_everything_once_per_permutation_and_resumes():
    order = Shuffle(10, torch.Generator().manual_seed(0))
    stream = [order.next(4) for _ in range(2)]
    before, cursor = order.state()
    stream += [order.next(4) for _ in range(3)]
    flat = torch.cat(stream).tolist()
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10)) and flat[:10] != flat[10:]
    again = Shuffle(10, torch.Generator().manual_seed(99))
    again.load_state(before, cursor)
    assert torch.cat([again.next(4) for _ in range(3)]).tolist() == flat[8:]


STREAMS = {
    "permuted": lambda reader: PermutedStream(reader, BATCH, 1),
    "ring": lambda reader: RingStream(reader, BATCH, SLOTS, 1),
}


@pytest.mark.parametrize("name", STREAMS)
def test_rows_are_those_of_their_tokens_and_every_token_comes_as_often_as_the_others(planted, name):
    stream = STREAMS[name](planted)
    n_epochs = 3
    seen = torch.zeros(4096, dtype=torch.int64)
    for _ in range(n_epochs * stream.n_tokens // BATCH):
        x_ND = stream.next()
        torch.testing.assert_close(x_ND, planted.scaled(planted.gather(stream.token_index_N)))
        seen += torch.bincount(stream.token_index_N, minlength=4096)
    train = planted.token_index("train")
    assert int(seen.sum()) == int(seen[train].sum()) == n_epochs * stream.n_tokens
    # The ring still holds the last tokens of the stream; of the others none is missing.
    slack = SLOTS if name == "ring" else 0
    assert int((seen[train] - n_epochs).abs().sum()) <= 2 * slack
    assert int((seen[train] - n_epochs).abs().max()) <= (1 if slack else 0)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_goes_on_exactly_where_another_stood(planted, name):
    stream, again = STREAMS[name](planted), STREAMS[name](planted)
    for _ in range(37):
        stream.next()
    tensors, values = stream.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    values = json.loads(json.dumps(values))
    expected = [stream.next() for _ in range(30)]
    again.load_state(tensors, values)
    assert again.batches_done == 37
    for x_ND in expected:
        assert torch.equal(again.next(), x_ND)


def test_a_larger_ring_mixes_better_and_a_permutation_best(planted):
    def pairs(stream) -> float:
        meter, mixing = MixingMeter(planted.context, planted.document_of_token), Mixing()
        for _ in range(40):
            stream.next()
            mixing.add(meter.of(stream.token_index_N))
        return mixing.means()["same_context_pairs_per_batch"]

    small, large = (pairs(RingStream(planted, BATCH, slots, 1)) for slots in (128, 2048))
    assert small > 2 * large > 0.8 * pairs(PermutedStream(planted, BATCH, 1))
    # n²/2 pairs of a batch, of which (context - 1) / (tokens in the ring) share a context of 12 unmasked tokens.
    assert large == pytest.approx(BATCH**2 / 2 * 11 / 2048, rel=0.5)


def test_mixing_counts_documents_and_pairs():
    meter, mixing = MixingMeter(4, torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])), Mixing()
    assert mixing.means() == {}
    mixing.add(meter.of(torch.tensor([0, 1, 2, 4, 8])))  # blocks 0 0 0 1 2: three pairs; documents 0 0 0 0 1
    mixing.add(meter.of(torch.tensor([6, 7, 8, 9, 10])))  # blocks 1 1 2 2 2: one and three pairs; document 1
    assert mixing.means() == {"distinct_documents_per_batch": 1.5, "same_context_pairs_per_batch": 3.5}


def test_a_ring_smaller_than_a_batch_is_refused(planted):
    with pytest.raises(UserError, match=r"sae\.ring: 32 slots do not hold a batch of 64"):
        RingStream(planted, BATCH, 32, 1)


def section(**changes) -> Sae:
    fields = {"k": 3, "sizes": [64, 96, 128], "epochs": 3, "batch": 128, "learning_rate": 5e-3, "checkpoint_every_steps": 10}
    return Sae(**(fields | {"ring": 512} | changes))  # pyright: ignore[reportArgumentType]


def alone(tmp_path, reader, size: int):
    work = tmp_path / f"alone-{size}"
    work.mkdir()
    return build_sae(reader, section(), size, work), work


@pytest.mark.parametrize("make", [PlantedActivations, streamed])
def test_sizes_that_share_a_pass_get_the_bytes_that_they_get_alone(tmp_path, make):
    reader = make()
    runs = {size: alone(tmp_path, reader, size) for size in (64, 96, 128)}
    expected = {size: digests(work) for size, (_, work) in runs.items()}
    mixing = mixing_of(runs[64][0])
    assert min(mixing) > 0 and mixing == mixing_of(runs[128][0])
    folders = {size: tmp_path / f"together-{size}" for size in (64, 96, 128)}
    for folder in folders.values():
        folder.mkdir()
    # 128 was alone before and died after its 20th step: it waits until the others have come as far.
    with pytest.raises(KeyError):
        build_sae(Dying(make()), section(), 128, folders[128])  # pyright: ignore[reportArgumentType]
    outcome = build_sae(reader, section(), 64, folders[64], companions={96: folders[96], 128: folders[128]})
    assert outcome.metadata["trained_with"] == [96, 128]
    assert digests(folders[64]) == expected[64] and mixing_of(outcome) == mixing
    for size in (96, 128):
        assert not (folders[size] / "weights.safetensors").exists()
        built = build_sae(Dying(make(), n_batches=0), section(), size, folders[size])  # pyright: ignore[reportArgumentType]
        assert built.metadata["resumed_at_step"] == built.metadata["n_steps"]
        assert digests(folders[size]) == expected[size]
        assert mixing_of(built) == mixing  # also of what others trained, and of what died and went on


MIXED = {  # architecture, features, steps, seed
    "relu_l1": (ReluL1(0.4, 0.1), 64, 20, 3),
    "gated": (Gated(1.0, 0.1), 80, 20, 0),
    "topk": (TopK(3), 96, 20, 1),
    "topk-8": (TopK(8), 96, 12, 2),
    "batch_topk": (BatchTopK(5), 64, 25, 0),
    "matryoshka": (Matryoshka(4, [16, 128]), 128, 20, 7),
    "jumprelu": (JumpReLU(1.5, "step", 32, 0.05), 64, 20, 1),
}


def test_architectures_sparsities_seeds_and_lengths_that_share_a_pass_get_the_bits_that_they_get_alone(tmp_path, planted):
    def made(folder: str, name: str) -> Trainer:
        architecture, size, n_steps, seed = MIXED[name]
        work = tmp_path / folder / name
        work.mkdir(parents=True)
        plan = TrainingPlan(size, n_steps, BATCH, 5e-3, decay_share=0.2, checkpoint_every_steps=1000, seed=seed)
        return Trainer(planted.d_model, deepcopy(architecture), plan, {"name": name}, work, torch.float32)

    together = {name: made("together", name) for name in MIXED}
    train_together(list(together.values()), PermutedStream(planted, BATCH, 1))  # pyright: ignore[reportArgumentType]
    weights = set()
    for name, trained in together.items():
        one = made("alone", name)
        train_together([one], PermutedStream(planted, BATCH, 1))  # pyright: ignore[reportArgumentType]
        mine, expected = (trainer.learner.tensors() for trainer in (trained, one))
        assert mine.keys() == expected.keys() and all(torch.equal(mine[key], expected[key]) for key in mine), name
        assert trained.architecture.state() == one.architecture.state()
        assert file_digest(trained.work / "history.parquet") == file_digest(one.work / "history.parquet")
        weights.add(mine["W_dec_FD"].numpy().tobytes())
    assert len(weights) == len(MIXED)


def mixing_of(outcome) -> tuple[float, float]:
    """What the run publishes of its stream's mixing."""
    return outcome.metadata["distinct_documents_per_batch"], outcome.metadata["same_context_pairs_per_batch"]


class Dying:
    """A reader that gives out after a number of batches."""

    def __init__(self, reader: PlantedActivations, n_batches: int = 25) -> None:
        self._reader, self._left = reader, n_batches

    def __getattr__(self, name: str):
        return getattr(self._reader, name)

    def scaled(self, r_ND: torch.Tensor) -> torch.Tensor:
        self._left -= 1
        if self._left < 0:
            raise KeyError("gave out")
        return self._reader.scaled(r_ND)


def test_a_companion_that_diverges_does_not_stop_the_others(tmp_path, planted, caplog):
    expected = digests(alone(tmp_path, planted, 64)[1])
    settings = section(learning_rate={64: 5e-3, "other": 1e30})
    lead, companion = tmp_path / "lead", tmp_path / "companion"
    lead.mkdir()
    companion.mkdir()
    build_sae(planted, settings, 64, lead, companions={96: companion})
    assert digests(lead) == expected and "sae/96: training diverged" in caplog.text
    with pytest.raises(UserError, match="sae/96: training diverged"):
        build_sae(planted, settings, 96, companion)


def test_a_companion_whose_checkpoint_is_refused_does_not_stop_the_others(tmp_path, planted, caplog):
    expected = digests(alone(tmp_path, planted, 64)[1])
    lead, companion = tmp_path / "lead", tmp_path / "companion"
    lead.mkdir()
    companion.mkdir()
    with pytest.raises(KeyError):
        build_sae(Dying(PlantedActivations()), section(seed=7), 96, companion)  # pyright: ignore[reportArgumentType]
    build_sae(planted, section(), 64, lead, companions={96: companion})
    assert digests(lead) == expected and "is of a run with another seed" in caplog.text
    with pytest.raises(UserError, match="is of a run with another seed"):
        build_sae(planted, section(), 96, companion)


def test_batches_of_a_pass_must_agree(tmp_path, planted):
    plan = TrainingPlan(64, n_steps=5, batch=BATCH + 1, learning_rate=1e-3, decay_share=0.2, checkpoint_every_steps=5, seed=0)
    trainer = Trainer(planted.d_model, TopK(3), plan, {}, tmp_path, torch.float32)
    with pytest.raises(ValueError, match=r"batches of 64 tokens, not \[65\]"):
        train_together([trainer], PermutedStream(planted, BATCH, 1))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("make", [PlantedActivations, streamed])
def test_a_signal_before_the_first_step_leaves_no_checkpoint(tmp_path, make, monkeypatch):
    @contextmanager
    def asked_at_once():
        asked = Deferred()
        asked.number = signal.SIGTERM
        yield asked

    monkeypatch.setattr(trainers, "deferred_signals", asked_at_once)
    plan = TrainingPlan(64, n_steps=5, batch=BATCH, learning_rate=1e-3, decay_share=0.2, checkpoint_every_steps=5, seed=0)
    made = Trainer(32, TopK(3), plan, {}, tmp_path, torch.float32)
    train_together([made], make_stream(make(), section(batch=BATCH)))  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_gathers", [1, 12])
def test_a_signal_while_a_shard_is_computed_saves_the_steps_before(tmp_path, n_gathers):
    """While the ring is filled for the first time there are none; later they are saved although no further step is made."""

    class Slow(PlantedActivations):
        n_left = n_gathers

        def gather(self, token_index_N):
            self.n_left -= 1
            if self.n_left == 0:
                signal.raise_signal(signal.SIGINT)
            stop_if_asked()
            return super().gather(token_index_N)

    expected, work = digests(alone(tmp_path, streamed(), 64)[1]), tmp_path / "stopped"
    work.mkdir()
    reader = Slow()
    reader.is_streamed = True
    with pytest.raises(KeyboardInterrupt):
        build_sae(reader, section(checkpoint_every_steps=10**6), 64, work)  # pyright: ignore[reportArgumentType]
    assert (work / "checkpoint.json").exists() == (n_gathers > 1)
    resumed = build_sae(streamed(), section(checkpoint_every_steps=10**6), 64, work).metadata["resumed_at_step"]  # pyright: ignore[reportArgumentType]
    assert (resumed > 5) == (n_gathers > 1)
    assert digests(work) == expected


def test_mixing_is_published(tmp_path, planted):
    metadata = alone(tmp_path, planted, 64)[0].metadata
    assert 35 < metadata["distinct_documents_per_batch"] <= 41 and metadata["same_context_pairs_per_batch"] > 10
