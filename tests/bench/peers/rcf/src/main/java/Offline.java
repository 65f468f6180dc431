import com.amazon.randomcutforest.RandomCutForest;
import java.io.BufferedInputStream;
import java.io.EOFException;
import java.io.DataInputStream;
import java.io.PrintStream;

/** Scores rows of big-endian floats from stdin with one forest; a line on stdout per row. */
public final class Offline {
  public static void main(String[] args) throws Exception {
    double[] point = new double[Integer.parseInt(args[0])];
    RandomCutForest forest = Peer.forest(point.length);
    try (DataInputStream rows = new DataInputStream(new BufferedInputStream(System.in));
        PrintStream scores = new PrintStream(System.out, false)) {
      while (true) {
        for (int i = 0; i < point.length; i++) {
          point[i] = rows.readFloat();
        }
        scores.println(forest.getAnomalyScore(point));
        forest.update(point);
      }
    } catch (EOFException end) {
      return;
    }
  }
}
