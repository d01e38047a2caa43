"""The model under study: naming it, loading it, rendering for it, and the likelihoods it gives."""

from aftertune.subject._adapter import assert_scale
from aftertune.subject._adapter_base import adapter_base, read_adapter_config
from aftertune.subject._cache import cache_root
from aftertune.subject._chat import IGNORE, Chat, Rendered
from aftertune.subject._choice import SubjectChoice
from aftertune.subject._content import subject_content
from aftertune.subject._device import Placement, resolve_device, resolve_dtype
from aftertune.subject._directions import LEADING
from aftertune.subject._embedded import embedded_folder
from aftertune.subject._file_digest import content_digest
from aftertune.subject._forest import Forest, Prediction
from aftertune.subject._generation import (
    Generation,
    GenerationRequest,
    SampledToken,
    batch_rows,
    generate,
    plan_generation,
)
from aftertune.subject._heads import attention_heads, is_attention
from aftertune.subject._identity import DIGESTS, Identity, differing_digests, weights_digest
from aftertune.subject._likelihood import (
    ResponseLikelihood,
    likelihood,
    refuse_overlong,
    score,
    score_batches,
    token_log_probabilities,
)
from aftertune.subject._loading import as_subject, load
from aftertune.subject._losses import response_losses
from aftertune.subject._merging import merge_adapter
from aftertune.subject._patch import Edit, Operation, Patch, make_patch, matrix_digest
from aftertune.subject._patch_file import apply_patches, patch_facts, read_patch, write_patch
from aftertune.subject._preflight import check_subject
from aftertune.subject._quiet import no_bars
from aftertune.subject._sampling import Sampling
from aftertune.subject._saving import save_model
from aftertune.subject._spec import EMBEDDED, SubjectSpec, parse_spec
from aftertune.subject._subject import Subject
from aftertune.subject._trees import Tree, plan_batches
from aftertune.subject._weights import Matrix, MatrixKind, WeightView
from aftertune.subject._wheel import ModelWheel

__all__ = [
    "DIGESTS",
    "EMBEDDED",
    "IGNORE",
    "LEADING",
    "Chat",
    "Edit",
    "Forest",
    "Generation",
    "GenerationRequest",
    "Identity",
    "Matrix",
    "MatrixKind",
    "ModelWheel",
    "Operation",
    "Patch",
    "Placement",
    "Prediction",
    "Rendered",
    "ResponseLikelihood",
    "SampledToken",
    "Sampling",
    "Subject",
    "SubjectChoice",
    "SubjectSpec",
    "Tree",
    "WeightView",
    "adapter_base",
    "apply_patches",
    "as_subject",
    "assert_scale",
    "attention_heads",
    "batch_rows",
    "cache_root",
    "check_subject",
    "content_digest",
    "differing_digests",
    "embedded_folder",
    "generate",
    "is_attention",
    "likelihood",
    "load",
    "make_patch",
    "matrix_digest",
    "merge_adapter",
    "no_bars",
    "parse_spec",
    "patch_facts",
    "plan_batches",
    "plan_generation",
    "read_adapter_config",
    "read_patch",
    "refuse_overlong",
    "resolve_device",
    "resolve_dtype",
    "response_losses",
    "save_model",
    "score",
    "score_batches",
    "subject_content",
    "token_log_probabilities",
    "weights_digest",
    "write_patch",
]
