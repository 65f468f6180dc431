import com.amazon.randomcutforest.RandomCutForest;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * AWS Random Cut Forest, one forest per entity: another detector, which learns continuously.
 *
 * <p>50 trees of 256 points, the library's defaults otherwise (bounding-box cache full, one
 * thread). Forests are lost with the process.
 */
public final class Peer {
  private static final int TREES = 50;
  private static final int POINTS = 256;

  public static void main(String[] args) throws Exception {
    Map<String, String> task = new HashMap<>();
    for (int i = 0; i + 1 < args.length; i += 2) {
      task.put(args[i].substring(2), args[i + 1]);
    }
    Map<String, Object> reading =
        Map.of(
            "bootstrap.servers", task.get("servers"),
            "group.id", task.get("out"),
            "auto.offset.reset", "earliest",
            "key.deserializer", ByteArrayDeserializer.class.getName(),
            "value.deserializer", ByteArrayDeserializer.class.getName());
    Map<String, Object> writing =
        Map.of(
            "bootstrap.servers", task.get("servers"),
            "linger.ms", "5",
            "key.serializer", ByteArraySerializer.class.getName(),
            "value.serializer", ByteArraySerializer.class.getName());
    ObjectMapper json = new ObjectMapper();
    Map<String, RandomCutForest> forests = new HashMap<>();
    try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(reading);
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(writing)) {
      consumer.subscribe(List.of(task.get("topic")));
      while (true) {
        for (var record : consumer.poll(Duration.ofMillis(50))) {
          JsonNode event = json.readTree(record.value());
          String entity = event.get("entity_id").asText();
          double[] point = point(event.get("features"));
          RandomCutForest forest =
              forests.computeIfAbsent(entity, name -> forest(point.length));
          double score = forest.getAnomalyScore(point);
          forest.update(point);
          String found =
              "{\"entity_id\":\"" + entity + "\",\"event_time_us\":"
                  + event.get("event_time_us").asLong() + ",\"score\":" + score + "}";
          byte[] value = found.getBytes(StandardCharsets.UTF_8);
          producer.send(new ProducerRecord<>(task.get("out"), record.key(), value));
        }
      }
    }
  }

  static RandomCutForest forest(int features) {
    return RandomCutForest.builder()
        .dimensions(features)
        .numberOfTrees(TREES)
        .sampleSize(POINTS)
        .randomSeed(7)
        .build();
  }

  private static double[] point(JsonNode features) {
    double[] point = new double[features.size()];
    for (int i = 0; i < point.length; i++) {
      point[i] = features.get(i).asDouble();
    }
    return point;
  }
}
