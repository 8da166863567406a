// What Classifier.kt calls of LiteRT: writes what it is given beside the model, answers class 7.

package org.tensorflow.lite;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

public class Interpreter implements AutoCloseable {
  public static class Options {
    public Options setNumThreads(int n) {
      return this;
    }
  }

  private final boolean isInt8;
  private final Path seen;

  /** The "model" holds its type and the file that is written, one a line. */
  public Interpreter(ByteBuffer model, Options options) {
    String[] lines = StandardCharsets.UTF_8.decode(model).toString().split("\n");
    isInt8 = lines[0].equals("int8");
    seen = Path.of(lines[1]);
  }

  public Tensor getInputTensor(int i) {
    return new Tensor(isInt8, 0);
  }

  public Tensor getOutputTensor(int i) {
    return new Tensor(isInt8, 10);
  }

  public void run(Object input, Object output) {
    ByteBuffer given = (ByteBuffer) input;
    byte[] bytes = new byte[given.remaining()];
    given.get(bytes);
    try {
      Files.write(seen, bytes);
    } catch (java.io.IOException error) {
      throw new java.io.UncheckedIOException(error);
    }
    ByteBuffer answer = (ByteBuffer) output;
    for (int i = 0; i < 10; i++) {
      if (isInt8) {
        answer.put((byte) (i == 7 ? -3 : -100));
      } else {
        answer.putFloat(i == 7 ? 0.5f : -2f);
      }
    }
  }

  public void close() {}
}
