//! Applications that fit together, and those that do not.

use jiff::SignedDuration;
use millstream_contract::commit::EventEnvelope;

use super::*;
use crate::{
    decider::{Decider, DecisionContext, Rejection},
    process::{Effect, Process, ProcessError},
    projection::{Projection, ProjectionError, Rows},
};

crate::commands! {
    /// Nothing that matters here.
    enum MemberCommand { Join {} = "join" }
}

crate::events! {
    /// Nothing that matters here.
    enum MemberEvent of "member" { Joined {} = "member-joined" v 1 }
}

struct Member;

impl Decider for Member {
    type Command = MemberCommand;
    type Event = MemberEvent;
    type State = ();

    const CONTEXT: &'static str = "gym";
    const AGGREGATE: &'static str = "member";

    fn decide(_: &(), _: &MemberCommand, _: &DecisionContext<'_>) -> Result<Vec<MemberEvent>, Rejection> {
        Ok(vec![Joined {}.into()])
    }

    fn evolve(_: &mut (), _: &MemberEvent) {}
}

struct View(&'static [&'static str]);

impl Projection for View {
    fn context(&self) -> &'static str {
        "gym"
    }

    fn name(&self) -> &'static str {
        self.0.first().expect("a view has a table")
    }

    fn views(&self) -> &'static [&'static str] {
        self.0
    }

    fn handles(&self, _aggregate: &str) -> bool {
        false
    }

    fn apply(&self, _: &EventEnvelope<'_>, _: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        Ok(())
    }
}

struct Dunning {
    name: &'static str,
}

impl Dunning {
    fn from_keys(keys: &mut dyn SettingKeys) -> Self {
        let _patience = keys.duration("patience", SignedDuration::from_hours(24), "how long");
        Self { name: "dunning" }
    }
}

impl Process for Dunning {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tables(&self) -> &'static [&'static str] {
        &[]
    }

    fn handles(&self, _context: &str, _aggregate: &str) -> bool {
        false
    }

    fn react(&self, _: &EventEnvelope<'_>, _: &mut (dyn Rows + '_)) -> Result<Vec<Effect>, ProcessError> {
        Ok(Vec::new())
    }
}

/// An application with the contexts of a function and the name `gym`.
macro_rules! application {
    ($name:ident, $contexts:expr) => {
        struct $name;

        impl Application for $name {
            const NAME: &'static str = "gym";
            const VERSION: &'static str = "1.4.0";
            const ABOUT: &'static str = "A test";

            fn contexts() -> Vec<Context> {
                $contexts
            }
        }
    };
}

fn gym() -> Context {
    Context::new("gym")
        .aggregate::<Member>()
        .view(View(&["member", "member.notes"]))
        .process("dunning", Dunning::from_keys)
}

fn refusal<A: Application>() -> String {
    match Model::of::<A>() {
        Ok(_) => panic!("the application is taken to be sound"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn sound_application_hands_out_its_parts() {
    application!(Sound, vec![gym()]);
    let model = Model::of::<Sound>().unwrap();
    assert_eq!(model.context_names(), ["gym"]);
    assert_eq!(model.process_names(), ["dunning"]);
    assert!(model.aggregates().get("gym", "member").is_some());
    let views = model.views(&mut DefaultSettings::default());
    let names: Vec<&str> = views.projections.iter().map(|view| view.name()).collect();
    assert_eq!(names, ["member"]);
    let outcomes: Vec<&str> = views.outcome_projections.iter().map(|view| view.name()).collect();
    let every = ["command", "process-rejection"];
    assert_eq!(outcomes, every, "every application can be asked what became of a command");
}

crate::commands! {
    /// Nothing that matters here.
    enum LockerCommand { Open {} = "open", Expire {} = "expire" }
}

struct Locker;

impl Decider for Locker {
    type Command = LockerCommand;
    type Event = MemberEvent;
    type State = ();

    const CONTEXT: &'static str = "gym";
    const AGGREGATE: &'static str = "locker";

    fn internal_commands() -> &'static [&'static str] {
        &["expire", "exprie"]
    }

    fn decide(_: &(), _: &LockerCommand, _: &DecisionContext<'_>) -> Result<Vec<MemberEvent>, Rejection> {
        Ok(vec![])
    }

    fn evolve(_: &mut (), _: &MemberEvent) {}
}

#[test]
fn internal_command_that_there_is_not_is_named() {
    application!(Misspelt, vec![Context::new("gym").aggregate::<Locker>()]);
    let refusal = refusal::<Misspelt>();
    assert!(refusal.contains("\"exprie\" of \"gym.locker\""), "{refusal}");
    assert!(!refusal.contains("\"expire\""), "{refusal}");
}

#[test]
fn what_is_there_twice_is_named() {
    application!(Aggregate, vec![gym().aggregate::<Member>()]);
    assert!(refusal::<Aggregate>().contains("two of the aggregate \"gym.member\""));
    application!(OneView, vec![gym().view(View(&["member"]))]);
    assert!(refusal::<OneView>().contains("two of the view \"gym.member\""));
    application!(Table, vec![gym().view(View(&["other", "member-notes"]))]);
    assert!(refusal::<Table>().contains("two of the view \"gym.member-notes\""));
    application!(Command, vec![gym().view(View(&["command"]))]);
    assert!(refusal::<Command>().contains("two of the view \"gym.command\""));
    application!(Reserved, vec![Context::new("millstream")]);
    assert!(refusal::<Reserved>().contains("the context \"millstream\" is Millstream's own"));
    application!(Twice, vec![gym(), Context::new("gym")]);
    assert!(refusal::<Twice>().contains("two of the context \"gym\""));
    application!(OneProcess, vec![gym().process("dunning", Dunning::from_keys)]);
    let said = refusal::<OneProcess>();
    assert!(said.contains("two of the process \"dunning\""), "{said}");
    assert!(said.contains("two of the setting \"process_manager.patience\""), "{said}");
}

#[test]
fn names_that_no_subject_can_carry_are_named() {
    application!(Named, vec![Context::new("Gym_1")]);
    let said = refusal::<Named>();
    assert!(said.contains("the context \"Gym_1\" has a name that is not allowed"), "{said}");
    application!(Viewed, vec![Context::new("gym").view(View(&["Member"]))]);
    assert!(refusal::<Viewed>().contains("the view \"Member\""));
}

#[test]
fn parts_in_the_wrong_place_are_named() {
    application!(Elsewhere, vec![Context::new("club").aggregate::<Member>().view(View(&["member"]))]);
    let said = refusal::<Elsewhere>();
    assert!(
        said.contains(
            "aggregate \"member\" is listed in context \"club\" but says that its context is \"gym\""
        )
    );
    assert!(said.contains("view \"member\" is listed in context \"club\""), "{said}");
    application!(Misnamed, vec![Context::new("gym").process("reminding", Dunning::from_keys)]);
    assert!(
        refusal::<Misnamed>()
            .contains("\"reminding\" is listed under that name but calls itself \"dunning\"")
    );
}

#[test]
fn settings_that_cannot_be_right_are_named() {
    fn wrong(keys: &mut dyn SettingKeys) -> Dunning {
        let _letters = keys.number("Letters", 9, 1..=5, "how many");
        Dunning::from_keys(keys)
    }
    application!(Wrong, vec![Context::new("gym").process("dunning", wrong)]);
    let said = refusal::<Wrong>();
    assert!(said.contains("the setting process_manager.Letters has a name that is not allowed"), "{said}");
    assert!(said.contains("the default of the setting process_manager.Letters is wrong"), "{said}");
}

#[test]
fn version_has_three_numbers() {
    struct Versioned;
    impl Application for Versioned {
        const NAME: &'static str = "Gym";
        const VERSION: &'static str = "1.4";
        const ABOUT: &'static str = "A test";

        fn contexts() -> Vec<Context> {
            Vec::new()
        }
    }
    let said = refusal::<Versioned>();
    assert!(said.contains("the version \"1.4\" is not allowed"), "{said}");
    assert!(
        said.contains("the application \"Gym\" has a name that is not allowed"),
        "all problems at once: {said}"
    );
}

#[test]
fn benchmark_names_what_there_is() {
    const LOAD: Benchmark = Benchmark {
        context: "gym",
        aggregate: "member",
        command: "join",
        body: |_, _| String::new(),
        view: "member",
    };
    struct Wrong;
    impl Application for Wrong {
        const NAME: &'static str = "gym";
        const VERSION: &'static str = "1.4.0";
        const ABOUT: &'static str = "A test";

        fn contexts() -> Vec<Context> {
            vec![gym()]
        }

        fn benchmark() -> Option<Benchmark> {
            Some(Benchmark { command: "leave", view: "members", ..LOAD })
        }
    }
    let said = refusal::<Wrong>();
    assert!(said.contains("the benchmark names the command \"gym.member.leave\""), "{said}");
    assert!(said.contains("the benchmark names the view \"gym.members\""), "{said}");
}
