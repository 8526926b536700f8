"""Types of mingrad: the public names of mingrad.engine, and those that are imported when first asked for."""

from . import autodiff as autodiff
from . import custom as custom
from . import engine as engine
from . import files as files
from . import gradcheck as gradcheck
from . import nn as nn
from . import optim as optim
from . import optimize as optimize
from . import steps as steps
from . import training as training
from . import visualize as visualize
from ._version import __version__ as __version__
from .autodiff import derivative as derivative
from .autodiff import grad as grad
from .autodiff import hessian as hessian
from .autodiff import hvp as hvp
from .autodiff import jacfwd as jacfwd
from .autodiff import jacobian as jacobian
from .autodiff import jacrev as jacrev
from .autodiff import jvp as jvp
from .autodiff import stop_gradient as stop_gradient
from .autodiff import value_and_grad as value_and_grad
from .autodiff import vjp as vjp
from .custom import custom_jvp as custom_jvp
from .custom import custom_vjp as custom_vjp
from .engine import *
from .files import load as load
from .files import save as save
from .gradcheck import GradientCheckError as GradientCheckError
from .gradcheck import check_grad as check_grad
from .optimize import minimize as minimize
from .steps import explain as explain
from .training import Checkpoint as Checkpoint
from .training import EarlyStopping as EarlyStopping
from .training import History as History
from .training import fit as fit
