//! What the streams of two generations, the database, the workers and the move hold.

/// A sequence of a stream.
pub(super) type Seq = u8;
/// A partition. The old generation has two, the new one has only 0.
pub(super) type Number = usize;

pub(super) const OLD: u8 = 1;
pub(super) const NEW: u8 = 2;

/// A callback of job 0 or 1. A job's are numbered from 1. In the old generation each job has the
/// partition of its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Callback {
    pub(super) job: usize,
    pub(super) number: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Message {
    Callback(Callback),
    /// The mark of the end.
    Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Gate {
    Open,
    /// The broker was told to close it, and its leader does not know that yet.
    Closing,
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stream {
    pub(super) gate: Gate,
    pub(super) first_seq: Seq,
    /// What its leader has taken, in order.
    pub(super) taken: Vec<Message>,
    /// How many of these are stored. Only those are confirmed, seen by readers and counted in the
    /// stream's description.
    pub(super) stored: usize,
}

impl Stream {
    pub(super) fn new(gate: Gate, first_seq: Seq) -> Self {
        Self { gate, first_seq, taken: Vec::new(), stored: 0 }
    }

    pub(super) fn last_seq(&self) -> Seq {
        self.first_seq + u8::try_from(self.stored).unwrap() - 1
    }

    /// The stored message at this sequence.
    pub(super) fn at(&self, seq: Seq) -> Option<Message> {
        let index = usize::from(seq.checked_sub(self.first_seq)?);
        self.taken[..self.stored].get(index).copied()
    }

    /// Whether the mark that was published last is stored.
    pub(super) fn is_marked(&self) -> bool {
        let mark = self.taken.iter().rposition(|message| *message == Message::Mark);
        mark.is_some_and(|mark| mark < self.stored)
    }

    pub(super) fn callbacks(&self) -> impl Iterator<Item = Callback> {
        self.taken.iter().filter_map(|message| match message {
            Message::Callback(callback) => Some(*callback),
            Message::Mark => None,
        })
    }
}

/// The row of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) generation: u8,
    pub(super) epoch: u8,
    pub(super) owner: Option<usize>,
    pub(super) applied_seq: Seq,
}

/// A callback that took effect, and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Effect {
    pub(super) partition: Number,
    pub(super) seq: Seq,
    pub(super) callback: Callback,
}

/// What an owner believes from an acquisition on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub(super) generation: u8,
    pub(super) epoch: u8,
    pub(super) applied_seq: Seq,
    /// The message that it has read and not applied yet.
    pub(super) read: Option<Message>,
    /// It says that the stream is not the one that was applied.
    pub(super) stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    /// That of the streams that it reads.
    pub(super) generation: u8,
    pub(super) views: [Option<View>; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) old: [Stream; 2],
    pub(super) new: Option<Stream>,
    /// How many callbacks of each job were published.
    pub(super) published: [u8; 2],
    pub(super) rows: [Option<Row>; 2],
    pub(super) effects: Vec<Effect>,
    pub(super) workers: [Worker; 2],
    /// The next step of the command that moves; none while it does not run.
    pub(super) next_step: Option<usize>,
    /// The ends of the old streams, as the command has read them.
    pub(super) ends: Option<[Seq; 2]>,
    /// An owner of one generation has committed into the row of another.
    pub(super) crossed: bool,
    /// How many faults of each kind are still to come.
    pub(super) takeovers: u8,
    pub(super) crashes: u8,
    pub(super) take_backs: u8,
}

impl State {
    pub(super) fn stream(&self, generation: u8, number: Number) -> Option<&Stream> {
        if generation == OLD { self.old.get(number) } else { self.new.as_ref() }
    }

    pub(super) fn stream_mut(&mut self, generation: u8, number: Number) -> &mut Stream {
        if generation == OLD { &mut self.old[number] } else { self.new.as_mut().unwrap() }
    }

    /// The message that an owner reads next, if it is there.
    pub(super) fn next(&self, view: &View, number: Number) -> Option<Message> {
        self.stream(view.generation, number)?.at(view.applied_seq + 1)
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.old.iter().chain(&self.new)
    }

    pub(super) fn is_new_open(&self) -> bool {
        self.new.as_ref().is_some_and(|new| new.gate == Gate::Open)
    }

    /// The generation that the database names.
    pub(super) fn generation(&self) -> u8 {
        self.rows[0].as_ref().map_or(OLD, |row| row.generation)
    }

    pub(super) fn is_applied(&self, callback: Callback) -> bool {
        self.effects.iter().any(|effect| effect.callback == callback)
    }

    /// Whether the sender has an answer to what it has published of this job.
    pub(super) fn is_confirmed(&self, job: usize) -> bool {
        self.streams().all(|stream| {
            let waiting = &stream.taken[stream.stored..];
            !waiting.iter().any(
                |message| matches!(message, Message::Callback(callback) if callback.job == job),
            )
        })
    }

    /// The checkpoints of both old partitions are at these ends.
    pub(super) fn is_applied_to(&self, ends: [Seq; 2]) -> bool {
        self.rows.iter().zip(ends).all(|(row, end)| {
            row.as_ref().is_some_and(|row| row.generation == OLD && row.applied_seq == end)
        })
    }

    /// No callback has two effects, and no two effects have one position.
    pub(super) fn is_applied_once(&self) -> bool {
        self.effects.iter().enumerate().all(|(index, effect)| {
            self.effects[..index].iter().all(|earlier| {
                earlier.callback != effect.callback
                    && (earlier.partition, earlier.seq) != (effect.partition, effect.seq)
            })
        })
    }

    pub(super) fn is_applied_in_order(&self) -> bool {
        [0, 1].into_iter().all(|job| {
            let of_job = || self.effects.iter().filter(|effect| effect.callback.job == job);
            of_job()
                .map(|effect| effect.callback.number)
                .eq(1..=u8::try_from(of_job().count()).unwrap())
                && of_job().is_sorted_by(|a, b| a.seq < b.seq)
        })
    }
}
