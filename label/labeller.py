"""A trained model that can be called: `model("my.mp4") -> [(label, probability), ...]`.

    from eval import load

    model = load("out/toy-pevl")
    model("my.mp4")[:3]                           # labels and probabilities, the best first
    model("my.mp4", start=2.0, end=4.5)           # seconds
    model.similarity("my.mp4", ["a dive", "a cartwheel"])["all"]       # cosines, (2,)
    model.features("my.mp4")["video"]             # V of Sec. 3.3.1, (e,)

paper     | what                                         | here                | tests/test_label.py
Eq. (7)   | labels of one video                          | Labeller.answer     | test_one_video_*
Eq. (4)   | similarities with any texts                  | Labeller.similarity | test_similarity_*
Sec. 3.3  | what is compared                             | Labeller.features   | test_features_*
-         | a video, or a text, unlike what was trained  | Labeller.doubts     | test_doubts_*

Shapes: K labels, U texts, R views, T pose frames, W words of a text, e size of an embedding.
"""
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from label.clips import VideoClips, with_times
from label.poses import pose_of
from pevl import text_discrepancy
from support.person import PersonFacts, person_facts
from support.sampling import between
from systems.base import inverse_tau
from systems.views import average_views, clip_features, clip_logits, mean_features


# How much farther than trained labels are apart a text may be before it is told. Ours.
FAR = 2.0


@dataclass
class Answer:
    """What a model says of one video, or of a span of it."""
    video: str
    start: float                                  # seconds; 0 and inf: the whole file
    end: float
    ranked: list[tuple[str, float]]               # all K labels with probabilities, best first
    alone: dict[str, tuple[str, float]]           # each similarity alone: its label and cosine
    doubts: list[str] = field(default_factory=list)       # why the answer may say little
    person: PersonFacts | None = None             # None for a model that reads no poses
    poses: str = ""                               # where the joints are from

    @property
    def label(self):
        """The most probable label."""
        return self.ranked[0][0]

    @property
    def probability(self):
        """Its probability, 0 .. 1."""
        return self.ranked[0][1]


def texts_in(texts):
    """A list of texts, or one text with ; between -> the list, without blanks around.

    Raises ValueError where there is none.
    """
    if isinstance(texts, str):
        texts = texts.split(";")
    found = [text.strip() for text in texts if text.strip()]
    if not found:
        raise ValueError("no texts. Expected one or more. Separate them by ; or give a list.")
    return found


class Labeller:
    """A trained model with its labels, for video files. Made by `eval.load`.

    model: an ActionModel in evaluation mode, on `device`. trained: the K labels of training.
    data_cfg: DataConfig of training: how a video becomes tensors, and the prompt. low: name ->
    logit below which the best one of a clip lay for one in a hundred validation clips; empty where
    the run does not tell. origin: one line that says which run answers. folder: where poses that
    are made of videos are kept.
    """

    def __init__(self, model, trained, data_cfg, device, low, origin, folder="out/videos/poses"):
        config = model.config
        self.reads_poses = config.model in ("pevl", "vilp") and config.pose
        self.model = model
        self.trained = list(trained)
        self.labels = list(trained)
        self.data_cfg = dataclasses.replace(data_cfg, read_poses=self.reads_poses)
        self.device = device
        self.low = dict(low)
        self.origin = origin
        self.folder = Path(folder)
        self.text_doubts = []                     # of labels that were never trained
        self._text = None                         # the encoded labels, made once

    # ---- Labels ----

    def prompts(self, labels):
        """Labels -> the texts that the model reads (Sec. 3.1), with the prompt of training."""
        return [self.data_cfg.text_of(label) for label in labels]

    def set_labels(self, labels):
        """Answer with other labels than those of training: a list of texts, or "a; b; c".

        Raises ValueError for a model with a linear head, for no text and for one given twice.
        """
        labels = texts_in(labels)
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))}: given twice. Expected each text "
                             "once. Leave one out.")
        self.model.set_texts(self.prompts(labels))
        self.labels = labels
        self._text = None
        self.text_doubts = self.far_texts(labels)

    @property
    def never_trained(self):
        """The labels that are none of training."""
        known = set(self.trained)
        return [label for label in self.labels if label not in known]

    @torch.no_grad()
    def far_texts(self, labels):
        """A warning for each label that is far from all trained ones: FAR times as far as any of
        these is from its nearest neighbour, by the frozen CLIP's 1 - cos (Sec. 3.3.2)."""
        new = [label for label in labels if label not in set(self.trained)]
        if not new or len(self.trained) < 2:
            return []
        sentences = []
        for one in (self.trained, new):           # apart, so that their lengths do not mix
            tokens = self.model.tokens_of(self.prompts(one)).to(self.device)
            sentences.append(self.model.clip.encode_text(tokens)[0])
        distance = text_discrepancy(torch.cat(sentences)).cpu()
        K = len(self.trained)
        itself = torch.eye(K, dtype=torch.bool)
        among = distance[:K, :K].masked_fill(itself, math.inf)              # (K, K)
        widest = float(among.min(1).values.max())
        nearest = distance[K:, :K].min(1).values  # (new,) from each new text to the trained ones

        warnings = []
        for label, far in zip(new, nearest.tolist()):
            if far > FAR * widest:
                warnings.append(f"the text {label!r} is far from all trained labels: 1 - cos is "
                                f"{far:.3f} to the nearest, and {widest:.3f} at most from one of "
                                "them to its nearest")
        return warnings

    def text(self):
        """The encoded labels, None for a linear head."""
        if self._text is None and self.model.compares_texts:
            self._text = self.model.encode_texts()
        return self._text

    # ---- One video ----

    def open(self, video, spans, pose="", views=1, extractor=""):
        """A video as a data set of spans, the facts of its person, and where its joints are from.

        Raises FileNotFoundError or ValueError: no such file, no extractor, other joints than those
        of training.
        """
        if views not in (1, 3):
            raise ValueError(f"views={views}. Expected 1, the centre, or 3 crops (Sec. 4.1). Give "
                             "one of them.")
        video = Path(video)
        if not video.is_file():
            raise FileNotFoundError(f"no video {video}. Expected a file FFmpeg reads. Check the "
                                    "path.")
        clip = None
        poses = ""
        facts = None
        if self.reads_poses:
            clip, poses = pose_of(video, self.folder, pose, extractor)
            if len(clip.joints) != self.model.joints and self.model.config.model == "pevl":
                raise ValueError(f"{len(clip.joints)} joints in the {poses}, and {self.origin} was "
                                 f"trained with {self.model.joints}. Expected as many. Give a pose "
                                 "file of that kind with --pose.")
            clip = with_times(clip, video)
            # Of the part that is labelled: who is seen in another minute says nothing of this one.
            asked = between(clip.times - clip.times[0], spans[0][0], spans[-1][1])
            facts = person_facts(clip.keypoints[asked], clip.scores[asked])
        dataset = VideoClips(self.data_cfg, video, spans, clip, self.labels,
                             self.prompts(self.labels), views)
        return dataset, facts, poses

    def item(self, dataset, index):
        """One clip of a VideoClips as a batch of one. ValueError where it cannot be read."""
        item = dataset[index]
        if item["error"]:
            raise ValueError(f"cannot read {item['error']}. Expected a whole video and its own "
                             "pose clip. Fetch or convert them again.")
        return {name: x[None] for name, x in item.items() if name != "error"}

    @torch.no_grad()
    def answer_clip(self, dataset, index, average="similarities"):
        """The Answer for clip `index` of a VideoClips, without its person and doubts about it."""
        batch = self.item(dataset, index)
        features = clip_features(self.model, batch, self.device)
        logits = clip_logits(self.model, features, self.text())
        means = {name: average_views(x, dataset.views, average)[0] for name, x in logits.items()}

        share = means["all"].softmax(-1).numpy()                            # (K,)
        best_first = np.argsort(-share, kind="stable")
        ranked = [(self.labels[k], float(share[k])) for k in best_first]

        scale = float(inverse_tau(self.model.logit_scale))
        alone = {}
        for name, mean in means.items():
            if name != "all":
                # The label as it was averaged. Beside it the mean of the cosines, also where the
                # probabilities were averaged, whose logarithm is no cosine.
                best = int(mean.argmax())
                cosine = average_views(logits[name], dataset.views)[0, best] / scale
                alone[name] = (self.labels[best], float(cosine))

        clip = dataset.clips[index]
        answer = Answer(clip.path, clip.start, clip.end, ranked, alone)
        # Other labels than the trained ones have other similarities, which prove nothing.
        if average == "similarities" and self.labels == self.trained:
            best = {name: float(mean.max()) for name, mean in means.items()}
            answer.doubts = self.doubts(best)
        return answer

    @torch.no_grad()
    def doubts(self, best):
        """A sentence for each figure that is lower than in 99 of 100 validation clips.

        best: name -> logit of the label that won. Told are logits over 1 / tau, similarities; of a
        linear head, which has no tau, the logits themselves.
        """
        scale = 1.0
        whole = "logit"
        if self.model.compares_texts:
            scale = float(inverse_tau(self.model.logit_scale))
            whole = "mean similarity"
        found = []
        for name, logit in best.items():
            low = self.low.get(name)
            if low is not None and logit < low:
                what = whole if name == "all" else f"similarity {name}"
                found.append(f"unlike the validation clips: its best {what} is "
                             f"{logit / scale:.3f}, and {low / scale:.3f} or more in 99 % of them")
        return found

    def answer(self, video, pose="", start=0.0, end=math.inf, views=1, extractor="",
               average="similarities"):
        """The Answer for a video file, or for the part of it from `start` to `end` seconds.

        pose: its pose file; empty: FILE.npz beside FILE.mp4, else the joints are extracted and
        kept in `folder`. views: crops, 1 or 3. Raises FileNotFoundError or ValueError.
        """
        dataset, facts, poses = self.open(video, [(start, end)], pose, views, extractor)
        return self.complete(self.answer_clip(dataset, 0, average), facts, poses)

    def complete(self, answer, facts, poses):
        """The answer with what is known of its person, and doubts about that before all others."""
        answer.person = facts
        answer.poses = poses
        if facts is not None and facts.warning:
            answer.doubts.insert(0, facts.warning)
        answer.doubts.extend(self.text_doubts)
        return answer

    def __call__(self, video, **options):
        """[(label, probability), ...] of a video file, the best first; options as of `answer`."""
        return self.answer(video, **options).ranked

    @torch.no_grad()
    def features(self, video, pose="", start=0.0, end=math.inf, views=1, extractor=""):
        """What the model makes of a video, and of its labels: name -> numpy array, float32.

        Of PeVL: video V (e,) and pose P (e,), not of unit length; frames F (T, e); sentences
        (K, e); words (K, W, e) and word_mask (K, W), bool, True on words. Other systems have what
        they have: ViLP frames and pose (Tv, e), AIM video alone. The mean over the views.
        """
        dataset, _, _ = self.open(video, [(start, end)], pose, views, extractor)
        found = clip_features(self.model, self.item(dataset, 0), self.device)
        features = {}
        for name, x in mean_features(found, views).items():
            features[name] = x[0].numpy()
        if "pose_frames" in features:
            features["frames"] = features.pop("pose_frames")

        if self.model.compares_texts:
            for name, x in self.text().items():
                x = x.cpu()
                features[name] = x.numpy() if x.dtype == torch.bool else x.float().numpy()
        return features

    @torch.no_grad()
    def similarity(self, video, texts, pose="", start=0.0, end=math.inf, views=1, extractor=""):
        """Similarities of a video with any texts: name -> (U,) float32 in [-1, 1].

        "all" is S of Eq. (4), which decides; the others are its terms. texts: U labels, a list or
        "a; b; c"; the prompt of training is put around them. Raises ValueError for a model with a
        linear head, and for no text.
        """
        texts = texts_in(texts)
        if not self.model.compares_texts:
            raise ValueError("similarities with texts of a model that has a linear head. Expected "
                             "one that compares with texts, such as pevl. Choose another run.")
        dataset, _, _ = self.open(video, [(start, end)], pose, views, extractor)
        features = clip_features(self.model, self.item(dataset, 0), self.device)
        tokens = self.model.tokens_of(self.prompts(texts)).to(self.device)
        logits = clip_logits(self.model, features, self.model.encode_tokens(tokens))
        scale = float(inverse_tau(self.model.logit_scale))
        return {name: average_views(x, views)[0].numpy() / scale for name, x in logits.items()}
