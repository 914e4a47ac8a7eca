"""The environment's side of a channel with lanes: several environments, one after another.

``Lanes`` steps them as ``gymnasium.vector.SyncVectorEnv`` does, and ``VectorBackend``
answers the requests of a ``VectorEnv`` with it. A reply carries all lanes, so a step
of many cheap environments costs one hand-over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from rlay.envs.backends import ServerBackend
from rlay.envs.facts import frame_capacity_of, read_facts
from rlay.errors import LayoutError, LocalProtocolError, RemoteProtocolError
from rlay.protocol.constants import DEFAULT_BODY_CAPACITY, Command, Feature
from rlay.protocol.lane_codecs import LaneError
from rlay.protocol.lanes import LaneRequest, LaneResults
from rlay.protocol.records import Request
from rlay.protocol.schema import describe_env
from rlay.protocol.spaces import Capacities
from rlay.session import Session

Env = gymnasium.Env[Any, Any]
Infos = dict[int, Mapping[str, Any]]

#: Gymnasium's modes by their names on the wire.
AUTORESET = {
    "disabled": AutoresetMode.DISABLED,
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
}
#: Room for the infos of one lane in a reply's body, bytes.
_INFO_ROOM = 16 << 10


class Lanes:
    """Environments with equal spaces, reset and stepped in the order of their lanes.

    Attributes:
        envs: one for each lane.
    """

    def __init__(
        self,
        factories: Sequence[Callable[[], Env]],
        mode: AutoresetMode,
        *,
        core: int | None = None,
    ) -> None:
        """Make the environments; ``core`` as of ``VectorBackend``.

        Raises:
            LayoutError: they have different spaces; names the lane.
        """
        self.envs: list[Env] = []
        try:
            for factory in factories:
                self.envs.append(factory())
            self._check_spaces()
        except BaseException:
            self.close()
            raise
        self._resets = [env.reset for env in self.envs]
        self._mode = mode
        #: Not 0 for a lane whose episode is over and that was not reset since.
        self._over = bytearray(len(self.envs))
        #: Of the step under way: lane to the last observation of an episode.
        self._finals: dict[int, Any] = {}
        # What ``LaneExchange.serve`` does as ``step`` below.
        begin = None if mode is AutoresetMode.DISABLED else self._begin
        steps = tuple([env.step for env in self.envs])
        core = -1 if core is None else core
        self.hosted = (steps, self._over, begin, self._ended, self._finals, core)

    def _check_spaces(self) -> None:
        first = self.envs[0]
        for lane, env in enumerate(self.envs):
            for name in ("observation_space", "action_space"):
                ours, theirs = getattr(env, name), getattr(first, name)
                if ours != theirs:
                    raise LayoutError(f"lane {lane}: {name} is {ours}, lane 0 has {theirs}")

    def reset(
        self, lanes: Sequence[int], seeds: Sequence[int | None], options: dict[Any, Any] | None
    ) -> tuple[LaneResults, Infos]:
        """Reset these lanes; return their observations and infos.

        Raises:
            LaneError: an environment raised; names its lane.
        """
        observations = []
        infos: Infos = {}
        for lane in lanes:
            self._over[lane] = 0
        lane = 0
        try:
            for lane, seed in zip(lanes, seeds, strict=True):
                observation, info = self._resets[lane](seed=seed, options=options)
                observations.append(observation)
                if info:
                    infos[lane] = info
        except Exception as error:
            raise LaneError(lane) from error
        return LaneResults(lanes, observations), infos

    def step(
        self, lanes: Sequence[int], actions: Sequence[Any]
    ) -> tuple[LaneResults, list[Any], list[Any], list[Any], Infos]:
        """Step these lanes, and reset by the autoreset mode.

        Returns:
            Observations, and for each lane in order reward, terminated, truncated; infos.

        Raises:
            LaneError: an environment raised; names its lane.
            LocalProtocolError: a lane's episode is over, with autoreset ``disabled``.
        """
        over, steps = self._over, self.hosted[0]
        late = [lane for lane in lanes if over[lane]]
        if late and self._mode is AutoresetMode.DISABLED:
            raise LocalProtocolError(f"the episodes of lanes {late} are over: reset these first")
        results = []
        self._finals.clear()
        lane = 0
        try:
            for lane, action in zip(lanes, actions, strict=True):
                if over[lane]:
                    results.append(self._begin(lane))
                    continue
                result = steps[lane](action)
                _, _, terminated, truncated, _ = result
                results.append(self._ended(lane, result) if terminated or truncated else result)
        except Exception as error:
            raise LaneError(lane) from error
        return self.gather(lanes, results)

    def gather(
        self, lanes: Sequence[int], results: Sequence[Any]
    ) -> tuple[LaneResults, list[Any], list[Any], list[Any], Infos]:
        """Return what ``step`` does, of a list of what each lane's step returned."""
        observations, rewards, terminations, truncations, infos = map(
            list, zip(*results, strict=True)
        )
        finals = dict(self._finals)
        self._finals.clear()
        some = {lane: info for lane, info in zip(lanes, infos, strict=True) if info}
        return LaneResults(lanes, observations, finals), rewards, terminations, truncations, some

    def _begin(self, lane: int) -> Any:
        """Begin the next episode of a lane instead of a step."""
        self._over[lane] = 0
        observation, info = self._resets[lane]()
        return observation, 0.0, False, False, info

    def _ended(self, lane: int, result: Any) -> Any:
        """Take the last step of an episode; return what its lane answers."""
        if self._mode is not AutoresetMode.SAME_STEP:
            self._over[lane] = 1
            return result
        observation, reward, terminated, truncated, info = result
        # A copy: the environment may use one buffer for all observations.
        self._finals[lane] = copy.deepcopy(observation)
        observation, info = self._reset_after(lane, info)
        return observation, reward, terminated, truncated, info

    def _reset_after(self, lane: int, final_info: Mapping[str, Any]) -> tuple[Any, Any]:
        """Begin the next episode in the step that ended one."""
        observation, info = self._resets[lane]()
        if "final_info" in info:
            raise LayoutError("info: the key 'final_info' is the autoreset's; rename yours")
        return observation, {**info, "final_info": final_info} if final_info else info

    def call(self, op: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Call a method, or get or set an attribute, of every lane.

        Args:
            op: ``call``, ``get`` or ``set``.
            name: of the method or attribute.
            args: for ``set`` one list with a value for each lane.
            kwargs: of the method.

        Raises:
            LaneError: an environment raised; names its lane.
        """
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is private to the environment")
        results = []
        lane = 0
        try:
            for lane, env in enumerate(self.envs):
                if op == "set":
                    env.set_wrapper_attr(name, args[0][lane])
                    continue
                found = env.get_wrapper_attr(name)
                called = op == "call" and callable(found)
                results.append(found(*args, **kwargs) if called else found)
        except Exception as error:
            raise LaneError(lane) from error
        return results

    def render(self, lane: int) -> Any:
        """Return what one lane renders."""
        try:
            return self.envs[lane].render()
        except Exception as error:
            raise LaneError(lane) from error

    def close(self) -> None:
        """Close every environment, then raise what the first failing one raised."""
        envs, self.envs = self.envs, []
        failure: Exception | None = None
        for env in envs:
            try:
                env.close()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure


class VectorBackend(ServerBackend):
    """Serves several environments to ``VectorEnv`` as the lanes of one channel.

    Example::

        with rlay.VectorBackend("carts", lambda: gymnasium.make("CartPole-v1"), 32) as backend:
            backend.serve()                     # rlay.VectorEnv("carts") in another process
    """

    def __init__(
        self,
        channel: str,
        envs: Callable[[], Env] | Sequence[Callable[[], Env]],
        lanes: int | None = None,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        info_fields: Mapping[str, Any] | None = None,
        capacities: Capacities | None = None,
        request_body: int = DEFAULT_BODY_CAPACITY,
        reply_body: int | None = None,
        frame_capacity: int | None = None,
        timeout: float | None = 60.0,
        attach_timeout: float | None = 30.0,
        wait: str | None = None,
        core: int | None = None,
    ) -> None:
        """Make the environments, compile the layout and publish the channel.

        Args:
            channel: name of the channel.
            envs: makes one environment, called for each lane; or one such function a lane.
            lanes: how many; left out with a sequence of functions.
            autoreset_mode: when a lane whose episode ended is reset, as in Gymnasium.
            info_fields: info keys that ride in the record, each with its Space or dtype,
                such as ``{"x_position": "float64"}``; all other info goes into the body.
            capacities: of Sequence and Graph spaces, by path.
            request_body: bytes for reset options and call arguments.
            reply_body: bytes for the undeclared infos of all lanes, call results and error
                texts; left out, 16 KiB for each lane, at least 64 KiB.
            frame_capacity: bytes for one lane's frame; left out, 8 MiB if they render.
            timeout: as of ``ServerBackend``.
            attach_timeout: seconds to wait for an agent.
            wait: how to wait for the turn; as of ``ServerBackend``.
            core: number of the processor core this thread goes back to when a request finds
                it elsewhere (Linux, with the extension); it is bound to none. For workers
                that are as many as the cores, which the system else may wake two on one.

        Raises:
            LayoutError: the lanes have different spaces, or spaces without a layout.
            ChannelBusyError: the channel is taken.
        """
        factories = [envs] * (lanes or 0) if callable(envs) else list(envs)
        if not factories or (lanes is not None and lanes != len(factories)):
            raise LocalProtocolError(
                f"lanes={lanes}: give a function and how many lanes, or a function for each"
            )
        self._prepare(channel, timeout, attach_timeout, wait)
        self._lanes = Lanes(factories, AutoresetMode(autoreset_mode), core=core)
        self._env, self._render = self._lanes.envs[0], None
        try:
            schema = describe_env(
                self._env.observation_space,
                self._env.action_space,
                info_fields=info_fields,
                capacities=capacities,
                env=read_facts(self._env),
                request_body=request_body,
                reply_body=reply_body or max(DEFAULT_BODY_CAPACITY, _INFO_ROOM * len(factories)),
                frame=frame_capacity_of(self._env) if frame_capacity is None else frame_capacity,
                lanes=len(factories),
                autoreset=AutoresetMode(autoreset_mode).name.lower(),
            )
            self._open(schema, Feature.RENDER | Feature.CALL)
        except BaseException:
            self._lanes.close()
            raise

    def _hosted(self) -> Any:
        return self._lanes.hosted

    def _reply_step(self, session: Session, result: Any) -> None:
        every = range(len(self._lanes.envs))
        session.reply_step(*self._lanes.gather(every, result))  # type: ignore[arg-type]

    def _perform(self, session: Session, request: Request) -> None:
        if not isinstance(request, LaneRequest):
            raise LocalProtocolError("this session has no lanes")
        command, lanes = request.command, self._lanes
        if command is Command.STEP:
            session.reply_step(*lanes.step(request.lanes, request.actions))  # type: ignore[arg-type]
        elif command is Command.RESET:
            results, infos = lanes.reset(request.lanes, request.seeds, request.options)
            session.reply_reset(results, infos)  # type: ignore[arg-type]
        elif command is Command.RENDER:
            if len(request.lanes) != 1:
                raise RemoteProtocolError(f"RENDER of {len(request.lanes)} lanes, expected one")
            session.reply_frame(lanes.render(request.lanes[0]))
        elif command is Command.CALL and request.call is not None:
            session.reply_value(lanes.call(**request.call))
        else:
            session.reply_value()

    def _finish(self) -> None:
        self._endpoint.shut()
        self._env = None
        self._lanes.close()
