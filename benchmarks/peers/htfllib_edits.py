"""Small edits of HtFLlib's code, by the method's name in fedkd: with them both compute the same. Each says why it is there.

They are applied to a copy of the user's copy, and only for the runs that are called changed; they say what the differences are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """A piece of a file of theirs, what takes its place, and why."""

    file: str
    old: str
    new: str
    why: str


FD, FML, KD = (f"flcore/clients/client{name}.py" for name in ("fd", "fml", "kd"))
FD_SERVER, KD_SERVER = "flcore/servers/serverfd.py", "flcore/servers/serverkd.py"
OTHERS = "a client is taught the mean over the others"
TEACHER = "a teacher is a constant"
CHANGE = "the mentee's change is cut to low rank, not its weights"
FLAT = "a convolution is cut as one matrix"
ENERGY = "the energy of a round is that at its end"
EDITS: dict[str, tuple[Edit, ...]] = {
    "fd": (
        Edit(
            FD, ".append(output[i, :].detach().data)", ".append(output[i, :].detach().softmax(0))", "targets are probabilities"
        ),
        Edit(FD, "copy.deepcopy(output.detach())", "torch.zeros_like(output)", "a class without a teacher teaches nothing"),
        Edit(FD, "load_item('Server', 'global_logits'", "load_item(self.role, 'global_logits'", OTHERS),
        Edit(
            FD_SERVER,
            "save_item(global_logits, self.role, 'global_logits', self.save_folder_name)",
            "[save_item(proto_aggregation(uploaded_logits[:k] + uploaded_logits[k + 1:]), c.role, 'global_logits', "
            "self.save_folder_name) for k, c in enumerate(self.selected_clients)]",
            OTHERS,
        ),
    ),
    "fml": (
        Edit(FML, "F.softmax(output_g, dim=1)", "F.softmax(output_g.detach(), dim=1)", TEACHER),
        Edit(FML, "F.softmax(output, dim=1)", "F.softmax(output.detach(), dim=1)", TEACHER),
    ),
    "fedkd": (
        Edit(KD, "F.softmax(output_g, dim=1)", "F.softmax(output_g.detach(), dim=1)", TEACHER),
        Edit(KD, "F.softmax(output, dim=1)", "F.softmax(output.detach(), dim=1)", TEACHER),
        Edit(KD, "L_h = self.MSE(rep, W_h(rep_g))", "L_h = self.MSE(rep, W_h(rep_g).detach())", TEACHER),
        Edit(KD, "L_h_g = self.MSE(rep, W_h(rep_g))", "L_h_g = self.MSE(rep.detach(), W_h(rep_g))", TEACHER),
        Edit(KD, "/ (CE_loss + CE_loss_g)", "/ (CE_loss + CE_loss_g).detach()", "the weight of distillation is a constant"),
        Edit(
            KD,
            "            save_item(W_h, self.role, 'W_h', self.save_folder_name)\n            global_model",
            "            W_h.weight.data = torch.load('../initial.pt')['maps'][self.id].clone()\n"
            "            save_item(W_h, self.role, 'W_h', self.save_folder_name)\n            global_model",
            "the map between features starts as ours does",
        ),
        Edit(
            KD,
            "        optimizer = torch.optim.SGD(model.parameters()",
            "        started = {n: p.detach().clone() for n, p in global_model.named_parameters()}\n"
            "        save_item(started, self.role, 'started', self.save_folder_name)\n"
            "        optimizer = torch.optim.SGD(model.parameters()",
            CHANGE,
        ),
        Edit(
            KD,
            "decomposition(global_model.named_parameters(), ",
            "decomposition([(n, p.detach() - started[n]) for n, p in global_model.named_parameters()], ",
            CHANGE,
        ),
        Edit(
            KD,
            "torch.tensor(param[name], device=self.device).data.clone()",
            "load_item(self.role, 'started', self.save_folder_name)[name] + torch.tensor(param[name]).reshape(old_param.shape)",
            CHANGE,
        ),
        Edit(KD, "np.linalg.svd(param_cpu,", "np.linalg.svd(param_cpu.reshape(len(param_cpu), -1),", FLAT),
        Edit(KD_SERVER, "client_param[client_k] * 1", "client_param[client_k].reshape(global_param[server_k].shape) * 1", FLAT),
        Edit(
            KD,
            "self.energy = args.T_start",
            "self.energy = args.T_start + (args.T_end - args.T_start) / args.global_rounds",
            ENERGY,
        ),
        Edit(
            KD_SERVER,
            "self.energy = self.T_start\n",
            "self.energy = self.T_start + (self.T_end - self.T_start) / self.global_rounds\n",
            ENERGY,
        ),
        Edit(KD_SERVER, "((1 + i) / self.global_rounds)", "((2 + i) / self.global_rounds)", ENERGY),
    ),
    "fedtgp": (
        Edit(
            "flcore/clients/clienttgp.py",
            "self.collect_protos()\n        save_item(model, self.role, 'model', self.save_folder_name)",
            "save_item(model, self.role, 'model', self.save_folder_name)\n        self.collect_protos()",
            "means are of the net as the round's training left it",
        ),
    ),
}


def apply(edit: Edit, system: Path) -> None:
    """Change the file below their ``system``. ValueError where the piece is not there."""
    file = system / edit.file
    text = file.read_text()
    if edit.old not in text:
        raise ValueError(f"{edit.file} has no {edit.old!r}")
    file.write_text(text.replace(edit.old, edit.new))
