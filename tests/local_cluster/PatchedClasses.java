import java.lang.reflect.Field;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.List;
import org.apache.beam.model.pipeline.v1.Endpoints.ApiServiceDescriptor;
import org.apache.beam.sdk.fn.server.ServerFactory;
import org.apache.beam.sdk.util.construction.resources.ClasspathScanningResourcesDetector;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.Server;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.runtime.state.ListDelimitedSerializer;

/** Prints what each patched class does, one line each; run by test_java_patches.py. */
public class PatchedClasses {
  public static void main(String[] arguments) throws Exception {
    System.out.println("other interfaces reached: " + bindsOtherInterfaces());
    System.out.println("jars to stage: " + jarsToStage());
    System.out.println("list: " + list());
    System.out.println("bytes held: " + bytesHeld());
  }

  private static boolean bindsOtherInterfaces() throws Exception {
    ApiServiceDescriptor.Builder chosen = ApiServiceDescriptor.newBuilder();
    int port;
    try (java.net.ServerSocket probe = new java.net.ServerSocket(0)) {
      port = probe.getLocalPort();
    }
    Server server =
        ServerFactory.createDefault()
            .create(List.of(), chosen.setUrl("127.0.0.1:" + port).build());
    try (Socket own = new Socket("127.0.0.1", port)) {
      try (Socket other = new Socket()) {
        other.connect(new InetSocketAddress("127.0.0.2", port), 5_000);
        return true;
      } catch (java.net.ConnectException refused) {
        return false;
      }
    } finally {
      server.shutdownNow().awaitTermination();
    }
  }

  private static int jarsToStage() {
    return new ClasspathScanningResourcesDetector(new io.github.classgraph.ClassGraph())
        .detect(PatchedClasses.class.getClassLoader())
        .size();
  }

  private static final ListDelimitedSerializer LISTS = new ListDelimitedSerializer();

  private static List<Integer> list() throws Exception {
    byte[] bytes = LISTS.serializeList(List.of(1, 2, 3), IntSerializer.INSTANCE);
    return LISTS.deserializeList(bytes, IntSerializer.INSTANCE);
  }

  private static int bytesHeld() throws Exception {
    Field view = ListDelimitedSerializer.class.getDeclaredField("dataInputView");
    view.setAccessible(true);
    Field buffer = DataInputDeserializer.class.getDeclaredField("buffer");
    buffer.setAccessible(true);
    return ((byte[]) buffer.get(view.get(LISTS))).length;
  }
}
