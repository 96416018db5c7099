package main

import (
	"encoding/json"

	"github.com/Shopify/sarama"
	cluster "github.com/bsm/sarama-cluster"
	"github.com/golang/protobuf/proto"
)

const (
	topic = "goim-push-topic"
	group = "goim-push-group-job"
)

// consumed is a record that the job took.
type consumed struct {
	Partition int32
	Offset    int64
	Key       string
	Push      PushMsg
}

// rebalanced says what the job holds after a rebalance, or why it failed.
type rebalanced struct {
	Rebalance string
	Holds     []int32
}

type failed struct{ Error string }

// job consumes until the input ends, then leaves the group.
func job(brokers []string, input *json.Decoder) {
	config := cluster.NewConfig()
	config.Consumer.Return.Errors = true
	config.Group.Return.Notifications = true
	consumer, err := cluster.NewConsumer(brokers, group, []string{topic}, config)
	check(err)
	end := make(chan struct{})
	go func() {
		hear(input, new(struct{}))
		close(end)
	}()
	for {
		select {
		case <-end:
			check(consumer.Close())
			return
		case err := <-consumer.Errors():
			say(failed{err.Error()})
		case note := <-consumer.Notifications():
			say(rebalanced{note.Type.String(), note.Current[topic]})
		case message := <-consumer.Messages():
			consumer.MarkOffset(message, "")
			line := consumed{Partition: message.Partition, Offset: message.Offset, Key: string(message.Key)}
			check(proto.Unmarshal(message.Value, &line.Push))
			say(line)
		}
	}
}

// produced says where a record is.
type produced struct {
	Partition int32
	Offset    int64
}

// push produces a record for each line until the input ends.
func push(brokers []string, input *json.Decoder) {
	config := sarama.NewConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Retry.Max = 10
	config.Producer.Return.Successes = true
	producer, err := sarama.NewSyncProducer(brokers, config)
	check(err)
	for {
		var line struct {
			Key  string
			Push PushMsg
		}
		if !hear(input, &line) {
			return
		}
		value, err := proto.Marshal(&line.Push)
		check(err)
		partition, offset, err := producer.SendMessage(&sarama.ProducerMessage{
			Topic: topic,
			Key:   sarama.StringEncoder(line.Key),
			Value: sarama.ByteEncoder(value),
		})
		check(err)
		say(produced{partition, offset})
	}
}
