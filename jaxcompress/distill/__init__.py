"""Distillation: losses by which a student learns from a teacher.

From logits (`kd`, `dkd`, `dist`, `nkd`, `standardized`, `teacher_free`), from features (`hint`, `attention`, `fsp`,
`nst`, `vid`, `activation_boundary`, `overhaul`, `factor_transfer`, `review`), from relations (`rkd_distance`,
`rkd_angle`, `similarity`, `correlation_congruence`, `pkt`), by contrast (`crd`, `in_batch`), without a trained teacher
(`online`) and without data (`data_free`). All but a few losses of whole batches are one number for each example. The
features of an unmodified model are read by `jaxcompress.taps`.
"""

from jaxcompress.distill import data_free as data_free
from jaxcompress.distill import online as online
from jaxcompress.distill.connectors import connect as connect
from jaxcompress.distill.connectors import connector as connector
from jaxcompress.distill.connectors import regress as regress
from jaxcompress.distill.connectors import regressor as regressor
from jaxcompress.distill.contrastive import Memory as Memory
from jaxcompress.distill.contrastive import crd as crd
from jaxcompress.distill.contrastive import in_batch as in_batch
from jaxcompress.distill.contrastive import memory as memory
from jaxcompress.distill.contrastive import negatives as negatives
from jaxcompress.distill.factor_transfer import factor_transfer as factor_transfer
from jaxcompress.distill.factor_transfer import paraphraser as paraphraser
from jaxcompress.distill.factor_transfer import reconstruction as reconstruction
from jaxcompress.distill.factor_transfer import translated as translated
from jaxcompress.distill.factor_transfer import translator as translator
from jaxcompress.distill.features import activation_boundary as activation_boundary
from jaxcompress.distill.features import attention as attention
from jaxcompress.distill.features import fsp as fsp
from jaxcompress.distill.features import hierarchical as hierarchical
from jaxcompress.distill.features import hint as hint
from jaxcompress.distill.features import margins as margins
from jaxcompress.distill.features import nst as nst
from jaxcompress.distill.features import overhaul as overhaul
from jaxcompress.distill.features import variational as variational
from jaxcompress.distill.features import vid as vid
from jaxcompress.distill.logits import dist as dist
from jaxcompress.distill.logits import dkd as dkd
from jaxcompress.distill.logits import kd as kd
from jaxcompress.distill.logits import nkd as nkd
from jaxcompress.distill.logits import standardized as standardized
from jaxcompress.distill.logits import teacher_free as teacher_free
from jaxcompress.distill.relations import correlation_congruence as correlation_congruence
from jaxcompress.distill.relations import pkt as pkt
from jaxcompress.distill.relations import rkd_angle as rkd_angle
from jaxcompress.distill.relations import rkd_distance as rkd_distance
from jaxcompress.distill.relations import similarity as similarity
from jaxcompress.distill.review import fusions as fusions
from jaxcompress.distill.review import review as review
