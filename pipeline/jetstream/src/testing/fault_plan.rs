//! Which faults a simulated JetStream has, how often and for how long. Probabilities are per operation.

use std::time::Duration;

use millstream_contract::testing::dice::Dice;

/// The faults of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultPlan {
    /// The longest time that a message needs in one direction without a fault.
    pub latency_max: Duration,
    /// How long a client waits for an answer.
    pub answer_timeout: Duration,
    /// An append takes up to [`FaultPlan::delay_max`] to arrive. Usually its sender is still waiting.
    pub append_delayed: f64,
    /// The longest delay of a delayed append or read.
    pub delay_max: Duration,
    /// An append never arrives, and its sender gets no answer.
    pub append_lost: f64,
    /// An append is stored, but its answer is lost.
    pub append_answer_lost: f64,
    /// The sender gets no answer, and the append arrives up to [`FaultPlan::late_max`] later.
    pub append_late: f64,
    /// The longest time that a late append needs to arrive.
    pub late_max: Duration,
    /// A command arrives a second time, up to [`FaultPlan::double_max`] later.
    pub command_doubled: f64,
    /// The longest time until the second arrival of a command. If it is longer than the window of `Nats-Msg-Id`, the command is stored again.
    pub double_max: Duration,
    /// A read gets no answer.
    pub read_unanswered: f64,
    /// A load is answered by a replica that lacks messages at the end of the stream.
    pub load_stale: f64,
    /// The state of a stream comes from a leader that was just elected and does not know the end of the stream yet.
    pub state_stale: f64,
    /// A reader's consumer is lost; it is made anew after up to [`FaultPlan::interruption_max`].
    pub reader_interrupted: f64,
    /// Longest interruption of a reader.
    pub interruption_max: Duration,
    /// A stream loses its leader, for up to [`FaultPlan::leader_loss_max`].
    pub leader_lost: f64,
    /// Longest time without a leader.
    pub leader_loss_max: Duration,
    /// A lease operation gets no answer; half of them take effect.
    pub lease_unanswered: f64,
    /// A lease is given to whoever asks, even if somebody else holds it.
    pub lease_given_twice: f64,
    /// A stream is full for a while, up to [`FaultPlan::full_max`].
    pub stream_full: f64,
    /// Longest time for which a stream is full.
    pub full_max: Duration,
    /// A plain message (a reply) is lost.
    pub send_lost: f64,
    /// Expectations are checked after message ids, as in a replicated stream, instead of before.
    pub message_id_first: bool,
}

impl FaultPlan {
    /// No faults; messages still take their time.
    pub fn none() -> Self {
        Self {
            latency_max: Duration::from_millis(3),
            answer_timeout: Duration::from_secs(5),
            append_delayed: 0.0,
            delay_max: Duration::from_secs(2),
            append_lost: 0.0,
            append_answer_lost: 0.0,
            append_late: 0.0,
            late_max: Duration::from_secs(60),
            command_doubled: 0.0,
            double_max: Duration::from_secs(300),
            read_unanswered: 0.0,
            load_stale: 0.0,
            state_stale: 0.0,
            reader_interrupted: 0.0,
            interruption_max: Duration::from_secs(8),
            leader_lost: 0.0,
            leader_loss_max: Duration::from_secs(6),
            lease_unanswered: 0.0,
            lease_given_twice: 0.0,
            stream_full: 0.0,
            full_max: Duration::from_secs(10),
            send_lost: 0.0,
            message_id_first: false,
        }
    }

    /// A plan in which `dice` makes each fault absent, rare or frequent. If everything failed in every run, effects of two faults together
    /// would stay hidden.
    pub fn any(dice: &mut Dice) -> Self {
        let lease_given_twice = *dice.pick(&[0.0, 0.0, 0.3, 0.9]);
        let mut rate = |frequent: f64| match dice.below(4) {
            0 | 1 => 0.0,
            2 => frequent / 5.0,
            _ => frequent,
        };
        Self {
            append_delayed: rate(0.3),
            append_lost: rate(0.15),
            append_answer_lost: rate(0.2),
            append_late: rate(0.2),
            command_doubled: rate(0.3),
            read_unanswered: rate(0.1),
            load_stale: rate(0.5),
            reader_interrupted: rate(0.15),
            leader_lost: rate(0.03),
            lease_unanswered: rate(0.2),
            lease_given_twice,
            stream_full: rate(0.02),
            send_lost: rate(0.2),
            message_id_first: dice.chance(0.5),
            latency_max: Duration::from_millis(*dice.pick(&[0, 3, 40])),
            late_max: Duration::from_millis(*dice.pick(&[50, 2_000, 60_000])),
            state_stale: *dice.pick(&[0.0, 0.0, 0.05, 0.2]),
            ..Self::none()
        }
    }
}
