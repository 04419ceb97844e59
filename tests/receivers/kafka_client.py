"""Kafka for tests: what others wrote, driven from outside.

    create BROKER TOPIC PARTITIONS   makes a topic, by kafka-python
    consume BROKER TOPIC FILE        reads a topic from its beginning, by librdkafka, and appends each message to FILE: its partition,
                                     the partition that kafka-python gives to its key, its key, time in milliseconds and text
    mock FILE N                      N brokers of librdkafka's mock cluster, whose addresses are written to FILE. Lines of standard
                                     input change it, and each is answered by a line: `create TOPIC PARTITIONS`, `down N`, `up N`,
                                     `leader TOPIC PARTITION N`, `errors CODE...`, one for each of the next requests to produce
"""

import ctypes
import glob
import json
import os
import sys
import time


def create(broker, topic, partitions):
    from kafka.admin import KafkaAdminClient, NewTopic

    client = KafkaAdminClient(bootstrap_servers=broker)
    answer = client.create_topics([NewTopic(topic, int(partitions), 1)])
    assert all(it["error_code"] == 0 for it in answer["topics"]), answer


def consume(broker, topic, path):
    from confluent_kafka import Consumer, TopicPartition
    from kafka.partitioner.default import murmur2

    consumer = Consumer({
        "bootstrap.servers": broker,
        "group.id": "tests",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "reconnect.backoff.max.ms": 500,
        "allow.auto.create.topics": False,
        "fetch.wait.max.ms": 50,
    })
    partitions = {}
    while not partitions:
        partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
        time.sleep(0.05)
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    with open(path, "a") as file:
        while True:
            for message in consumer.consume(1000, 0.1):
                if message.error():
                    print(message.error(), file=sys.stderr)
                    continue
                key = message.key()
                line = {
                    "partition": message.partition(),
                    "expected": None if key is None else (murmur2(key) & 0x7FFFFFFF) % len(partitions),
                    "key": None if key is None else key.decode(),
                    "time": message.timestamp()[1],
                    "text": message.value().decode(),
                }
                file.write(json.dumps(line) + "\n")
            file.flush()


def mock(path, brokers):
    import confluent_kafka

    beside = os.path.join(os.path.dirname(confluent_kafka.__file__), "..", "confluent_kafka.libs", "librdkafka*.so*")
    library = ctypes.CDLL(glob.glob(beside)[0])
    for name in ["rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"]:
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    error = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    handle = ctypes.c_void_p(library.rd_kafka_new(0, conf, error, ctypes.c_size_t(512)))
    cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(handle, int(brokers)))
    with open(path + ".new", "wb") as file:
        file.write(library.rd_kafka_mock_cluster_bootstraps(cluster))
    os.rename(path + ".new", path)
    for line in sys.stdin:
        verb, *words = line.split()
        if verb == "create":
            outcome = library.rd_kafka_mock_topic_create(cluster, words[0].encode(), int(words[1]), 1)
        elif verb == "down":
            outcome = library.rd_kafka_mock_broker_set_down(cluster, int(words[0]))
        elif verb == "up":
            outcome = library.rd_kafka_mock_broker_set_up(cluster, int(words[0]))
        elif verb == "leader":
            topic, partition, broker = words[0].encode(), int(words[1]), int(words[2])
            outcome = library.rd_kafka_mock_partition_set_leader(cluster, topic, partition, broker)
        elif verb == "errors":
            codes = (ctypes.c_int * len(words))(*map(int, words))
            library.rd_kafka_mock_push_request_errors_array(
                cluster, ctypes.c_int16(0), ctypes.c_size_t(len(words)), codes
            )
            outcome = 0
        else:
            sys.exit(f"no verb {verb}")
        print(outcome, flush=True)


{"create": create, "consume": consume, "mock": mock}[sys.argv[1]](*sys.argv[2:])
