//! Faults that only a cluster of several brokers has: leaders that move, brokers that go, a coordinator
//! that moves, errors in the middle of joining, committing and producing. On librdkafka's mock of Kafka.

use std::fmt;

use fastrand::Rng;
use rdkafka::{
    ClientConfig,
    mocking::{MockCluster, MockCoordinator},
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::{
    feed::PARTITIONS,
    harness::{DEAD_LETTERS, GROUP, TOPIC},
    number,
    storm::Storm,
};

const BROKERS: i32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LeaderErrors,
    LeaderMoves,
    BrokerDown,
    CoordinatorMoves,
    GroupErrors,
    CommitErrors,
    ProduceErrors,
    Disconnects,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::LeaderErrors,
        Self::LeaderMoves,
        Self::BrokerDown,
        Self::CoordinatorMoves,
        Self::GroupErrors,
        Self::CommitErrors,
        Self::ProduceErrors,
        Self::Disconnects,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LeaderErrors => "leader errors in answers to fetches",
            Self::LeaderMoves => "leader moves",
            Self::BrokerDown => "broker down",
            Self::CoordinatorMoves => "coordinator moves",
            Self::GroupErrors => "errors in joining and heartbeats",
            Self::CommitErrors => "errors in commits of offsets",
            Self::ProduceErrors => "errors in dead letters",
            Self::Disconnects => "connections cut in fetches",
        })
    }
}

fn plan(seed: u64, faults: usize) -> Vec<(Kind, i32)> {
    let mut random = Rng::with_seed(seed ^ 0x0c10_57e2);
    let mut first = Kind::ALL;
    random.shuffle(&mut first);
    (0..faults)
        .map(|number| {
            let drawn = first.get(number).copied();
            (
                drawn.unwrap_or_else(|| Kind::ALL[random.usize(..Kind::ALL.len())]),
                random.i32(0..1 << 20),
            )
        })
        .collect()
}

fn throw(storm: &mut Storm, mock: &MockCluster<'_, DefaultProducerContext>, kind: Kind, which: i32) {
    use RDKafkaRespErr as E;
    let broker = 1 + which % BROKERS;
    match kind {
        Kind::LeaderErrors => {
            let errors = [
                E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                E::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
            ];
            mock.request_errors(RDKafkaApiKey::Fetch, &errors);
        }
        Kind::LeaderMoves => {
            for partition in 0..PARTITIONS {
                mock.partition_leader(TOPIC, partition, Some(1 + (which + partition) % BROKERS))
                    .unwrap();
            }
        }
        Kind::BrokerDown => {
            // It leads a partition, and members read from it; but a leader that is gone is not named among the brokers any
            // more, and a member that hears of that first forgets it. The group's coordinator is named: each tries to reach it.
            mock.partition_leader(TOPIC, which % PARTITIONS, Some(broker)).unwrap();
            mock.coordinator(MockCoordinator::Group(GROUP.to_owned()), broker)
                .unwrap();
            storm.feed(100);
            storm.wait("the records before the fault", Storm::is_drained);
            let errors = errors_seen(storm);
            mock.broker_down(broker).unwrap();
            storm.wait("the broker to be missed", |storm| errors_seen(storm) > errors);
            mock.broker_up(broker).unwrap();
        }
        Kind::CoordinatorMoves => mock
            .coordinator(MockCoordinator::Group(GROUP.to_owned()), broker)
            .unwrap(),
        Kind::GroupErrors => {
            let heartbeat = [
                E::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
                E::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
                E::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
                E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
            ];
            mock.request_errors(RDKafkaApiKey::Heartbeat, &heartbeat[which as usize % 4..][..1]);
            let join = [
                E::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
            ];
            mock.request_errors(RDKafkaApiKey::JoinGroup, &join[..1]);
            mock.request_errors(RDKafkaApiKey::SyncGroup, &join[1..]);
        }
        Kind::CommitErrors => {
            let errors = [
                E::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
                E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                E::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
            ];
            mock.request_errors(RDKafkaApiKey::OffsetCommit, &errors);
        }
        Kind::ProduceErrors => {
            let errors = [
                E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            ];
            mock.request_errors(RDKafkaApiKey::Produce, &errors);
            storm.feed_poison(10);
        }
        Kind::Disconnects => {
            mock.request_errors(RDKafkaApiKey::Fetch, &[E::RD_KAFKA_RESP_ERR__TRANSPORT; 3]);
        }
    }
}

/// Connections to brokers that the members have told to be broken.
fn errors_seen(storm: &Storm) -> usize {
    let counts = storm
        .members
        .iter()
        .map(|member| member.log().matches("facility=\"FAIL\"").count());
    counts.sum()
}

/// A tenth as many faults as the storm's, at least one of each kind.
#[test]
fn leader_errors_and_broker_outages_change_nothing() {
    let seed = number("SEED", 20_260_301);
    let faults = (number("FAULTS", 32_usize) / 10).max(Kind::ALL.len());
    let plan = plan(seed, faults);
    assert_eq!(plan, self::plan(seed, faults), "the same seed throws the same plan");
    println!("mock cluster: SEED={seed}");
    for kind in Kind::ALL {
        println!(
            "  {kind:34} {:5}",
            plan.iter().filter(|(thrown, _)| *thrown == kind).count()
        );
    }

    let mock = MockCluster::new(BROKERS).unwrap();
    mock.create_topic(TOPIC, PARTITIONS, BROKERS).unwrap();
    mock.create_topic(DEAD_LETTERS, 1, BROKERS).unwrap();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("reconnect.backoff.max.ms", "200");
    let mut storm = Storm::on(seed, config);
    storm.begin();
    for (kind, which) in plan {
        storm.feed(200);
        throw(&mut storm, &mock, kind, which);
        storm.feed(100);
        storm.wait("the records after the fault", Storm::is_drained);
    }
    println!("{}", storm.drain_and_check());
}
