"""Student, teacher and score network on one Stable Diffusion: shared tensors, gradients as of copies."""

import copy

import pytest
import torch
from latent_bases import KINDS, TEACHER, TEXTS, VIEW, noise, open_base, taught, tensors, trained

from unistep.diffusion.denoiser import Batch, filled
from unistep.methods.tsdsr import TSDSR, TSDSRConfig

pytest.importorskip("diffusers")


def cast(base, kind, separate):
    """TSD-SR on the three roles."""
    torch.manual_seed(0)
    nets = [
        taught(base.denoiser(role, VIEW[kind]), seed)
        for seed, role in enumerate(("student", "teacher", "score"))
    ]
    if separate:
        nets = [copy.deepcopy(net) for net in nets]
    settings = TSDSRConfig(process=VIEW[kind], dasm_steps=0, weight_mse=1.0)
    return TSDSR(settings, *nets, base.decode, lambda x, target: (x - target).abs().mean())


def step(base, kind, separate=False):
    """(method, losses and gradients in their order) of one step; each role must move its own LoRA alone."""
    method, seen = cast(base, kind, separate), []
    players = {"student": method.student, "critic": method.critic, "teacher": method.teacher}
    optimisers = {
        name: torch.optim.AdamW(trained(players[name]).values(), lr=1e-3, weight_decay=0.0)
        for name in ("student", "critic")
    }
    x_lq, x_hq = noise(2, 3, 16, 16).clamp(-1, 1), noise(2, 3, 64, 64, seed=1).clamp(-1, 1)
    cond = base.cond(x_lq)
    batch = Batch(x_lq, x_hq, base.encode(x_hq), cond, base.null(cond), base.told(cond, TEXTS[2:]))

    def update(name, losses):
        before = {who: [p.detach().clone() for p in tensors(net)] for who, net in players.items()}
        optimisers[name].zero_grad()
        sum(losses.values()).backward(inputs=[*trained(players[name]).values()])
        seen.extend([*losses.values(), *(p.grad for p in trained(players[name]).values())])
        optimisers[name].step()
        for who, net in players.items():
            own = {id(p) for p in trained(net).values()}
            moved = {
                id(p) for p, old in zip(tensors(net), before[who], strict=True) if not torch.equal(p, old)
            }
            assert moved <= own and bool(moved) == (who == name)

    z_hat = method.generate(batch)
    update("student", method.generator_loss(batch, z_hat))
    update("critic", method.critic_loss(batch, z_hat.detach()))
    return method, [None if x is None else x.detach().clone() for x in seen]


@pytest.fixture(scope="module", params=KINDS)
def alone(request):
    """What three separate copies give, without checkpointing."""
    kind = request.param
    return kind, step(open_base(kind, **worn(kind)), kind, separate=True)


def worn(kind):
    return (
        {"lora_teacher": str(TEACHER)} if kind == "sd3" else {"train_conv_in": True, "learned_prompt": True}
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_roles_equal_separate_copies_to_the_bit(alone, checkpointing):
    kind, (theirs, expected) = alone
    base = open_base(kind, checkpointing=checkpointing, **worn(kind))
    before = [p.clone() for p in tensors(base.net, base.codec)]
    method, found = step(base, kind)
    assert len(found) == len(expected) > 100
    assert all((a is None) == (b is None) and (a is None or torch.equal(a, b))
               for a, b in zip(found, expected, strict=True))  # fmt: skip
    for ours, other in ((method.student, theirs.student), (method.critic, theirs.critic)):
        assert all(map(torch.equal, trained(ours).values(), trained(other).values()))
    # what is frozen is one set of tensors, unchanged
    assert all(map(torch.equal, tensors(base.net, base.codec), before))
    mine = {p.untyped_storage().data_ptr() for p in tensors(base.net, base.codec)}
    for net in (method.student, method.teacher, method.critic):
        own = {id(p) for p in trained(net).values()}
        loras = {id(p) for name, p in net.named_parameters() if ".lora_" in name}
        for p in tensors(net):
            assert (p.untyped_storage().data_ptr() in mine) == (id(p) not in own | loras)
    assert not trained(method.teacher)
    if checkpointing:
        assert any(getattr(module, "gradient_checkpointing", False) for module in method.student.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_keeps_less_and_gives_the_same(kind):
    """In the student and its encoder, in the encoder half, and in the decoder that a loss looks through."""
    kept, gradients = [], []
    for checkpointing in (False, True):
        base = open_base(kind, checkpointing=checkpointing)
        torch.manual_seed(0)
        student = taught(base.denoiser("student", VIEW[kind]))
        critic = taught(base.features("critic", VIEW[kind]))
        cond = base.cond(noise(1, 3, 16, 16).clamp(-1, 1))
        z = cond.y.clone().requires_grad_()
        t, inputs = filled(base.t_student, z), [z, *trained(student).values(), *trained(critic).values()]
        losses = {
            "student": lambda student=student, z=z, t=t, cond=cond: student.denoiser(z, t, cond),
            "encoder": lambda student=student, cond=cond: student.codec.encode(cond.image),
            "features": lambda critic=critic, z=z, t=t, cond=cond: torch.cat(
                [m.flatten() for m in critic(z, t, cond)]
            ),
            "decoder": lambda base=base, z=z: base.decode(z),
        }
        for name, loss in losses.items():
            sizes = []

            def keep(x, sizes=sizes):
                sizes.append(x.numel())
                return x

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                made = loss().square().mean()
            kept.append((name, sum(sizes)))
            gradients.append(torch.autograd.grad(made, inputs, allow_unused=True))
    half = len(kept) // 2
    assert not [name for (name, whole), (_, less) in zip(kept[:half], kept[half:], strict=True)
                if less > 0.25 * whole]  # fmt: skip
    for ours, theirs in zip(gradients[:half], gradients[half:], strict=True):
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None or b is not None]
        assert pairs and all(torch.equal(a, b) for a, b in pairs)
