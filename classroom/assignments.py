"""What can be handed out: marks, each a set of functions with their tests, and six assignments.

A mark is the unit of grading: its functions are blanked in the student's copy, and the tests of
tests/spec/test_<mark>_facts.py are its facts. An assignment is a few marks with a task in words.

here        | what it is                                    | tests/test_classroom.py
MARKS       | mark -> functions, points, section            | test_marks_name_what_exists
ASSIGNMENTS | the six that are ready                        | test_assignments_are_complete
chosen      | names on a command line -> marks, assignments | test_names_that_are_not_there
"""
from dataclasses import dataclass

from support.checks import unknown_name


@dataclass(frozen=True)
class Mark:
    """One gradable part of the program."""

    title: str                  # as in the paper
    where: str                  # its section; "ViLP" and "CLIP" for the other two papers
    functions: dict             # file -> names in it, `Class.method` for methods
    points: int
    hours: str                  # for a student who knows PyTorch and has read the section
    task: str                   # what is to be written, a sentence or two
    questions: tuple            # to be answered in words


@dataclass(frozen=True)
class Assignment:
    """A few marks with a frame around them."""

    title: str
    marks: tuple
    hours: str
    about: str                  # why one would do this
    then: str                   # what to do once the tests pass


MARKS = {
    "eq1": Mark(
        title="Pose-adapted vision attention (P2V)",
        where="Eq. (1), Sec. 3.2.1, Fig. 3a",
        functions={"pevl.py": ("patch_weight", "masked_softmax", "P2V.forward")},
        points=30,
        hours="4 to 6",
        task="Write the patch weights M, the softmax over weighted scores, and the block that uses "
             "both. The layers of the block are given.",
        questions=(
            "Eq. (1) multiplies scores by M. What does a score of 0 mean for a softmax, and what "
            "does a patch with M = 0 get if you do as printed? (Try the worked example of "
            "masked_softmax.)",
            "Where a score is negative, a larger M makes a patch count for less. When does that "
            "happen, and what would you do about it?",
            "Why is the frame's largest M made 1, and not the sum of M?",
        )),
    "eq2": Mark(
        title="Video-enriched pose (V2P)",
        where="Eq. (2), Sec. 3.2.2",
        functions={"pevl.py": ("V2P.forward",)},
        points=20,
        hours="2 to 3",
        task="Let the pose tokens of a frame look at the video tokens of that frame.",
        questions=(
            "Why are the keys the video tokens from before P2V?",
            "What could the background token learn that no joint can?",
        )),
    "eq3": Mark(
        title="Refinement supervision",
        where="Eq. (3), Sec. 3.2.3",
        functions={"pevl.py": ("nt_xent",)},
        points=15,
        hours="1 to 2",
        task="Write the symmetric contrast of clips before and after refinement.",
        questions=(
            "With a sum over the batch in place of the mean, what would lambda_R have to do when "
            "the batch size doubles?",
            "What is the loss at the very start of training, when refinement changes nothing? Is "
            "it 0?",
        )),
    "eq4": Mark(
        title="Multi-level association",
        where="Eq. (4), Sec. 3.3.1, Fig. 3b",
        functions={"pevl.py": ("attend", "frame_word_similarity", "mean_similarity")},
        points=25,
        hours="2 to 4",
        task="Write the soft maximum, the similarity of frames and words that applies it twice in "
             "both orders, and the mean of the similarities.",
        questions=(
            "What do s1 and s2 become as tau goes to 0, and as it grows?",
            "The word \"position\" is in every label of Diving48. What does it do to sim_fw?",
        )),
    "eq5": Mark(
        title="Semantic content guided weights",
        where="Eq. (5), Sec. 3.3.2",
        functions={"pevl.py": ("text_discrepancy", "semantic_weights")},
        points=20,
        hours="2 to 3",
        task="Write how far texts differ, and the weights of a batch that follow from it.",
        questions=(
            "Why do same-label pairs break the printed form? What is s for them, and what does "
            "that make of KL(q || p) in Eq. (6)?",
            "Derive when the weights give back the plain contrastive loss.",
            "The discrepancies come from a text tower that is not trained. What happens to the "
            "loss, and to the model, if they come from the sentences in training?",
        )),
    "eq6": Mark(
        title="Semantic content guided loss",
        where="Eq. (6), Sec. 3.3.2",
        functions={"pevl.py": ("one_way_kl", "two_way_kl", "semantic_guided_loss")},
        points=20,
        hours="2 to 3",
        task="Write the KL of right and predicted shares, in both directions.",
        questions=(
            "Why KL(q || p), when KL(p, q) is printed?",
            "Show that with single positives and equal weights this is cross-entropy.",
        )),
    "eq7": Mark(
        title="Prediction",
        where="Eq. (7), Sec. 3.4",
        functions={"pevl.py": ("predict",)},
        points=5,
        hours="half an hour",
        task="Write the probabilities of a clip's labels from the logits of its views.",
        questions=("When do the mean of logits and the mean of probabilities disagree on the "
                   "label?",)),
    "vilp": Mark(
        title="Pose guided concept spotting (P-VCS)",
        where="ViLP (ICVGIP 2023)",
        functions={"systems/vilp.py": ("gate", "votes_of_words", "pose_guided_concept_spotting",
                                       "TemporalTransformer.forward")},
        points=20,
        hours="2 to 4",
        task="Write the gate by which pose opens a frame, the votes of words for frames, what is "
             "voted for against the sentence, and how frames are told their time.",
        questions=("The entries of a unit vector are near 0. What does the gate do, then, as it is "
                   "printed?",)),
    "clip": Mark(
        title="CLIP: attention, block, read-outs",
        where="CLIP (ICML 2021); Sec. 3.1 stands on it",
        functions={"clip_model.py": ("Attention.forward", "Attention._class_weights",
                                     "ResidualAttentionBlock.forward",
                                     "VisionTransformer.read_out", "CLIP.causal_mask",
                                     "CLIP.read_text")},
        points=25,
        hours="2 to 4",
        task="Write multi-head attention, the block around it, and how an image and a text are "
             "read from their tokens.",
        questions=(
            "Why is a text read from its end token, and not from its first?",
            "What would a model lose that sums both towers' tokens in place of reading one?",
        )),
    "data": Mark(
        title="Moments, crops and joints",
        where="Sec. 4.1",
        functions={"support/sampling.py": ("video_frame_index", "sample_instants", "nearest"),
                   "data.py": ("test_view", "train_view", "train_edges", "place")},
        points=20,
        hours="3 to 5",
        task="Write which moments of a clip are looked at, and crops that take frames and joints "
             "along together.",
        questions=("A joint that is off by half a pixel in a 224 px frame is off by how much of a "
                   "16 px patch? Does it matter for M?",)),
}

ASSIGNMENTS = {
    "clip": Assignment(
        title="1. CLIP's attention and read-outs",
        marks=("clip",),
        hours="2 to 4",
        about="PeVL adapts a frozen CLIP. Whoever has written its attention once reads the rest of "
              "the program with other eyes.",
        then="`python eval.py --model clip --data toy` asks the tiny CLIP without any training: "
             "{zero_shot}. Then `python train.py`: {pevl}."),
    "p2v": Assignment(
        title="2. Patch weights and P2V",
        marks=("eq1",),
        hours="4 to 6",
        about="The joints tell the video where to look. Half of the work is to say exactly what "
              "\"where\" means.",
        then="`python train.py`: {pevl}. Then `python train.py --literal-mask --out "
             "out/literal-mask`, and compare the attention strips of the two."),
    "refinement": Assignment(
        title="3. V2P and the refinement loss",
        marks=("eq2", "eq3"),
        hours="3 to 5",
        about="The other direction: joints ask the picture; and a loss that keeps a refined clip "
              "what it was.",
        then="`python train.py`: {pevl}. Then leave one of them out, `--row table5/no-v2p` and "
             "`--row table5/no-refinement`, and say what your seed lets you conclude."),
    "words": Assignment(
        title="4. Frames and words",
        marks=("eq4",),
        hours="2 to 4",
        about="A label names the parts of a dive. Each word is to find the moment that it speaks "
              "of, without anyone ever having said when that is.",
        then="`python train.py`: {pevl}; the line of the similarities alone shows what yours is "
             "worth (`fw`)."),
    "contrast": Assignment(
        title="5. The semantic content guided loss",
        marks=("eq5", "eq6"),
        hours="4 to 8",
        about="A plain contrast pushes a clip off from all wrong texts alike. Here a text pushes "
              "as far as it differs; and the form that is printed cannot be computed where two "
              "clips of a batch have the same label. Find out why, first on paper.",
        then="`python train.py`: {pevl}. Then `--no-sgl`, the plain loss."),
    "open": Assignment(
        title="6. Open: a better row within a budget of minutes",
        marks=(),
        hours="a week",
        about="Take a row of the lab (`python train.py --list-rows`) or PeVL itself on the toy "
              "benchmark, and make it better: `timeout 15m python train.py ...` on two CPU cores "
              "has to be enough. It is measured on clips and with a seed that you do not know, so "
              "that three seeds of your own tell you more than one.",
        then="PeVL as it stands: {pevl}. Write a page: what you tried, what it changed over three "
             "seeds, what you would not claim."),
}


def chosen(names):
    """Names of marks or assignments -> the marks in the order of MARKS, and the assignments' names.

    Raises ValueError for a name that is neither.
    """
    marks = []
    assignments = []
    for name in names:
        if name in ASSIGNMENTS:
            assignments.append(name)
            marks += ASSIGNMENTS[name].marks
        elif name in MARKS:
            marks.append(name)
        else:
            raise unknown_name("mark or assignment", name, {**MARKS, **ASSIGNMENTS})
    return [mark for mark in MARKS if mark in marks], assignments


def blanks_of(marks):
    """File -> name of a function -> what the error in its place says."""
    found = {}
    for mark in marks:
        entry = MARKS[mark]
        for file, names in entry.functions.items():
            for name in names:
                said = f"{entry.where}: {name} is yours to write, see ASSIGNMENT.md"
                found.setdefault(file, {})[name] = said
    return found
