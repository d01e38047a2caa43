"""The model under study: naming it, loading it, rendering for it, and the likelihoods it gives."""

from aftertune.model._adapter import assert_scale
from aftertune.model._adapter_base import adapter_base, read_adapter_config
from aftertune.model._chat import IGNORE, Chat, Rendered
from aftertune.model._choice import SubjectChoice
from aftertune.model._content import subject_content
from aftertune.model._device import Placement, resolve_device, resolve_dtype
from aftertune.model._directions import LEADING
from aftertune.model._embedded import embedded_folder
from aftertune.model._file_digest import content_digest
from aftertune.model._forest import Forest, Prediction
from aftertune.model._generation import (
    Generation,
    GenerationRequest,
    SampledToken,
    batch_rows,
    generate,
    plan_generation,
)
from aftertune.model._heads import attention_heads, is_attention
from aftertune.model._identity import DIGESTS, Identity, differing_digests, weights_digest
from aftertune.model._likelihood import (
    ResponseLikelihood,
    likelihood,
    refuse_overlong,
    score,
    score_batches,
    token_log_probabilities,
)
from aftertune.model._loading import as_subject, load
from aftertune.model._losses import response_losses
from aftertune.model._merging import merge_adapter
from aftertune.model._patch import Edit, Operation, Patch, make_patch, matrix_digest
from aftertune.model._patch_file import apply_patches, patch_facts, read_patch, write_patch
from aftertune.model._preflight import check_subject
from aftertune.model._quiet import no_bars
from aftertune.model._sampling import Sampling
from aftertune.model._saving import save_model
from aftertune.model._spec import EMBEDDED, SubjectSpec, parse_spec
from aftertune.model._subject import Subject
from aftertune.model._trees import Tree, plan_batches
from aftertune.model._weights import Matrix, MatrixKind, WeightView
from aftertune.model._wheel import ModelWheel
from aftertune.runs import cache_root

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
